"""CLIP through open_clip's own calls, whichever model a profile names."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from xaikit.arguments import Device, Texts, public
from xaikit.models.cards import CLIP_WEIGHTS, RESTORE, check_folder, shipped
from xaikit.models.hub import clip_weights, said
from xaikit.models.preprocessing import Preprocessed, ShortestSide
from xaikit.models.tokens import known_words, report_losses


@dataclass(frozen=True, eq=False)
class BareClip:
    """A CLIP as the recipe of the mini captioner starts from it, whose card holds this code's hash: change `Clip`."""

    image_encoder: ShortestSide
    model: nn.Module
    tokenizer: open_clip.tokenizer.SimpleTokenizer | open_clip.tokenizer.HFTokenizer

    @property
    def logit_scale(self) -> float:
        """What multiplies a cosine before the softmax."""
        return self.model.logit_scale.exp().item()

    def encode_texts(self, texts: list[str]) -> Float[Tensor, "texts features"]:
        """Unit text embeddings, in the order of `texts`. Raises ValueError where there is none."""
        if not texts:
            raise ValueError("There is no caption to encode; give at least one.")
        device = next(self.model.parameters()).device
        with torch.no_grad():
            return F.normalize(self.model.encode_text(self.tokenizer(texts).to(device)), dim=-1)


TEXTS_AT_ONCE = 256  # at CLIP's 77 tokens 0.8 GB with ViT-B-16's text tower, 1.6 GB with ViT-H-14's


@public
@dataclass(frozen=True, eq=False)
class Clip(BareClip):
    """A frozen CLIP: the image tower that takes images in [0, 1] (None for texts alone), and the captions' side."""

    image_encoder: Preprocessed | None

    @property
    def words(self) -> tuple[str, ...]:
        """All words that a mini CLIP knows, sorted; none where the tokenizer is of pieces and knows every word."""
        return known_words(self.tokenizer)

    def encode_texts(self, texts: Texts, *, strict: bool = False) -> Float[Tensor, "texts features"]:
        """Unit text embeddings, in the order of `texts`, of which a few hundred are in memory at a time.

        Warns of texts beyond the context, which are cut, and of words that the tokenizer does not know, with the first
        five of them. Raises ValueError where there is no text, and with `strict` in place of the warning.
        """
        report_losses(texts, self.tokenizer, strict=strict)
        starts = range(0, max(1, len(texts)), TEXTS_AT_ONCE)  # once where there is none, which raises
        return torch.cat([super(Clip, self).encode_texts(texts[i : i + TEXTS_AT_ONCE]) for i in starts])


@public
def load_clip(name: str, pretrained: str | None = None, device: Device = "cpu", *, revision: str | None = None) -> Clip:
    """Load a CLIP by its open_clip name and weights ("RN50-quickgelu", "openai"), or from "local-dir:FOLDER".

    Weights that are not here yet are downloaded, of the hub's repositories the commit `revision`, by default the one
    first seen here (`models.hub`). In float32, in evaluation mode, frozen, behind the preprocessing of its own
    configuration. Raises ValueError for a folder without a complete model or with damaged weights, for weights that
    cannot be had or do not fit the configuration, or have another activation function, of which open_clip only warns,
    for a model that asks for code of its own, and for a preprocessing that is not known here.

    >>> import torch
    >>> from xaikit import load_clip
    >>> from xaikit.storage.paths import WEIGHTS
    >>> clip = load_clip(f"local-dir:{WEIGHTS / 'clip-vit-mini'}")
    >>> images, texts = clip.image_encoder(torch.rand(2, 3, 64, 64)), clip.encode_texts(["a red bird", "a dog"])
    >>> images.shape, texts.shape  # two embeddings each, those of texts of unit length
    (torch.Size([2, 128]), torch.Size([2, 128]))
    """
    with said(f"The CLIP {name}"), clip_weights(name, pretrained, revision):
        bare = load_bare(name, pretrained, device)
    return Clip(Preprocessed.of(bare.model.visual), bare.model, bare.tokenizer)


def load_bare(name: str, pretrained: str | None = None, device: str = "cpu") -> BareClip:
    """`load_clip` as the mini captioner's recipe has it, with images cut to squares whatever the configuration says."""
    if name.startswith("local-dir:"):
        _check_folder(Path(name.removeprefix("local-dir:")))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="QuickGELU mismatch")
        try:
            model = open_clip.create_model(name, pretrained, precision="fp32", device=device)
        except UserWarning as warning:
            message = f"{name} does not fit the weights {pretrained!r}: {warning}; use the -quickgelu name."
            raise ValueError(message) from warning
    model.eval().requires_grad_(False)
    vision = model.visual
    size = vision.image_size[0] if isinstance(vision.image_size, tuple) else vision.image_size
    preprocess = vision.preprocess_cfg
    encoder = ShortestSide(vision, size, preprocess["mean"], preprocess["std"]).eval()
    return BareClip(encoder, model, open_clip.get_tokenizer(name))


def load_from(settings: Mapping[str, str], device: str = "cpu") -> Clip:
    """The CLIP that a profile names: `weights` that ship, or `name`, `pretrained` and maybe a `revision`."""
    if "weights" in settings:
        return load_clip(f"local-dir:{shipped(settings['weights'])}", device=device)
    return load_clip(settings["name"], settings["pretrained"], device, revision=settings.get("revision"))


def _check_folder(folder: Path) -> None:
    """Say in a sentence what open_clip would only log or trip over."""
    config, weights = folder / "open_clip_config.json", folder / CLIP_WEIGHTS
    for path in (config, weights):
        if not path.is_file():
            raise ValueError(f"{path} is missing; {RESTORE}.")
    check_folder(folder)
    try:
        json.loads(config.read_text(encoding="utf-8"))
        with safe_open(weights, "pt"):
            pass
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"{folder} is damaged ({error}); {RESTORE}.") from error
