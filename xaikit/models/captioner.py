"""A BLIP captioner (Li et al., 2022): its text decoder is the frozen language model of paper 2, the whole its baseline.

The mini captioner is a `transformers` BLIP in a small configuration that learns the drawn world from captions. As BLIP
starts from a ViT that knows ImageNet, it starts from the image tower of the mini CLIP.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import open_clip
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float16, Int64, UInt8
from torch import Tensor, nn
from tqdm import trange
from transformers import (
    AutoTokenizer,
    BaseImageProcessor,
    BertLMHeadModel,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    PreTrainedTokenizerFast,
)

from xaikit.arguments import Count, Device, Natural, Texts, Within, public
from xaikit.models import clip_vit_mini
from xaikit.models.cards import shipped
from xaikit.models.clip import load_bare
from xaikit.models.clip_training import word_tokenizer
from xaikit.models.hooks import evaluating
from xaikit.models.hub import find, load_whole, named, remember, said
from xaikit.models.precision import training_precision
from xaikit.models.preprocessing import Preprocessed, ShortestSide
from xaikit.models.quietly import without_progress_bars
from xaikit.models.tokens import report_losses
from xaikit.storage.paths import WEIGHTS
from xaikit.storage.seeding import generator, seed_for

NAME = "captioner-mini"
LONGEST = 28  # tokens of a caption, with both ends
SCENES = 6_000  # of each part of the corpus
BATCH = 64
DECODER_STEPS, STEPS = 6_000, 600
_PROCESSORS = ("processor_config.json", "preprocessor_config.json")
LEARNING_RATES = {"decoder": 1e-3, "all": 3e-4}


@public
@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A frozen text decoder that says what it is conditioned on (`encoder_hidden_states` [batch, tokens, width])."""

    decoder: nn.Module
    tokenizer: PreTrainedTokenizerFast
    prompt: list[int]  # the tokens that every sentence starts with
    end: Natural
    pad: Natural

    @property
    def width(self) -> int:
        """The width of what it is conditioned on."""
        config = self.decoder.config
        return getattr(config, "encoder_hidden_size", config.hidden_size)

    def encode(self, texts: Texts, longest: Count, *, strict: bool = False) -> Int64[Tensor, "texts length"]:
        """Prompt, words and end of each text, padded behind.

        Warns of words that the tokenizer does not know. Raises ValueError for a text with no word, or of more than
        `longest` tokens in all, and with `strict` in place of the warning.
        """
        rows = []
        for text in texts:
            words = self.tokenizer(text, add_special_tokens=False).input_ids
            row = [*self.prompt, *words, self.end]
            if not words or len(row) > longest:
                raise ValueError(
                    f"The caption {text!r} makes {len(row)} tokens; give texts of 1 word to {longest} tokens."
                )
            rows.append(torch.tensor(row))
        report_losses(texts, self.tokenizer, longest, prompt=len(self.prompt) + 1, strict=strict)
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad)

    def decode(self, sentences: Annotated[Int64[Tensor, "sentences length"], Within(0)]) -> list[str]:
        """The texts of sampled tokens (without prompt), each up to its end. Raises ValueError for unknown tokens."""
        if sentences.max() >= len(self.tokenizer):
            raise ValueError(f"Some sentences hold tokens beyond {len(self.tokenizer) - 1}; give the tokenizer's own.")
        return self.tokenizer.batch_decode(sentences, skip_special_tokens=True)


class ImageTokens(nn.Module):
    """Images in [0, 1] to the tokens of a BLIP's image tower, after its last norm."""

    def __init__(self, tower: nn.Module, size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.tower, self.preprocess = tower, ShortestSide(nn.Identity(), size, mean, std)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens features"]:
        """The class token and the patches. Raises ValueError for pixels outside [0, 1]."""
        return self.tower(pixel_values=self.preprocess.prepare(images)).last_hidden_state


@public
@dataclass(frozen=True, eq=False)
class Captioner:
    """A frozen BLIP: the image tower that takes images in [0, 1] and gives tokens, and the language model."""

    image_encoder: ImageTokens
    language: LanguageModel


@public
def load_captioner(name: str, prompt: str = "", device: Device = "cpu") -> Captioner:
    """Load a BLIP from a folder or by its name at the hub, in float32, in evaluation mode, frozen.

    `prompt` is put before every caption, as BLIP's training did with "a picture of". A name may pin a commit
    ("owner/name@COMMIT", see `models.hub`). Raises ValueError for a folder without a complete model or with files that
    are not its card's, for weights that do not fit the configuration, for a model that asks for code of its own, and
    for a hub's model that was neither downloaded nor can be reached.

    >>> import torch
    >>> from xaikit import load_captioner
    >>> from xaikit.storage.paths import WEIGHTS
    >>> captioner = load_captioner(str(WEIGHTS / "captioner-mini"))
    >>> captioner.image_encoder(torch.rand(2, 3, 64, 64)).shape  # the class token and 8 × 8 patches
    torch.Size([2, 65, 128])
    """
    source = find(name)
    with said(f"The captioner {name}"), without_progress_bars() if source.revision is None else nullcontext():
        model = load_whole(BlipForConditionalGeneration, source, dtype=torch.float32, trust_remote_code=False)
        words = AutoTokenizer.from_pretrained(source.name, trust_remote_code=False, **source.options)
        told = source.revision is not None or any((source.folder / file).is_file() for file in _PROCESSORS)
        processor = BlipImageProcessor.from_pretrained(source.name, **source.options) if told else None
    remember(source)
    return frozen(model.to(device), words, prompt, processor)


def load_plain_bert(name: str, device: str = "cpu") -> LanguageModel:
    """A BERT as the decoder, which is the paper's literal reading, from a folder or by its name at the hub.

    Its cross-attention is new, with random weights, and it has never predicted a next word: a translator can only make
    do with that. Raises ValueError where it cannot be loaded.
    """
    torch.manual_seed(seed_for(0, "plain bert", "cross-attention"))
    source = find(name)
    with said(f"The BERT {name}"), without_progress_bars():
        decoder = load_whole(
            BertLMHeadModel, source, may_lack="crossattention", is_decoder=True, add_cross_attention=True,
            trust_remote_code=False,
        )  # fmt: skip
        words = AutoTokenizer.from_pretrained(source.name, trust_remote_code=False, **source.options)
    remember(source)
    decoder.to(device).eval().requires_grad_(False)
    return LanguageModel(decoder, words, [words.cls_token_id], words.sep_token_id, words.pad_token_id)


def load_from(settings: Mapping[str, str], device: str = "cpu") -> Captioner:
    """The captioner that a profile names: `weights` that ship, or the `name`, and maybe `revision`, at the hub."""
    name = str(shipped(settings["weights"])) if "weights" in settings else named(settings)
    return load_captioner(name, settings.get("prompt", ""), device)


def frozen(
    model: BlipForConditionalGeneration,
    words: PreTrainedTokenizerFast,
    prompt: str = "",
    processor: BaseImageProcessor | None = None,
) -> Captioner:
    """The captioner that a BLIP, its tokenizer and its image processor make; without one images are as the mini's."""
    model.eval().requires_grad_(False)
    text = model.config.text_config
    start = [text.bos_token_id, *words(prompt, add_special_tokens=False).input_ids]
    language = LanguageModel(model.text_decoder, words, start, text.sep_token_id, text.pad_token_id)
    vision = model.config.vision_config
    encoder = ImageTokens(model.vision_model, vision.image_size, clip_vit_mini.MEAN, clip_vit_mini.STD)
    if processor is not None:
        encoder.preprocess = Preprocessed.of(processor)
        if encoder.preprocess.sides != (vision.image_size, vision.image_size):
            raise ValueError(
                f"The image processor makes images of {encoder.preprocess.sides}; the captioner takes squares of "
                f"{vision.image_size}."
            )
    return Captioner(encoder.eval(), language)


def tokenizer() -> PreTrainedTokenizerFast:
    """Whole words; the vocabulary is that of the captions of drawn scenes."""
    return word_tokenizer(_sentences(), LONGEST)


def config() -> dict:
    """The settings of the mini captioner's BlipConfig."""
    width, words = 128, tokenizer()
    return {
        "vision_config": {
            "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": 6, "num_attention_heads": 8,
            "image_size": clip_vit_mini.PIXELS, "patch_size": 8,
        },
        "text_config": {
            "hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": 3, "num_attention_heads": 4,
            "encoder_hidden_size": width, "max_position_embeddings": 32, "vocab_size": len(words),
            "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id,
            "sep_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id,
        },
    }  # fmt: skip


def build() -> BlipForConditionalGeneration:
    """The mini captioner before its training: its image tower nearly computes the mini CLIP's tokens."""
    torch.manual_seed(seed_for(0, NAME, "weights"))
    model = BlipForConditionalGeneration(BlipConfig(**config()))
    clip = load_bare(f"local-dir:{WEIGHTS / clip_vit_mini.NAME}")
    images = torch.cat(list(_corpus_images(100)))
    model.vision_model.load_state_dict(blip_weights(clip.model.visual, clip.image_encoder.prepare(images)))
    return model


@torch.no_grad()
def blip_weights(
    visual: open_clip.transformer.VisionTransformer, images: Float[Tensor, "images 3 height width"]
) -> dict[str, Tensor]:
    """The weights with which a BLIP's image tower nearly computes an open_clip ViT's tokens after its last norm.

    BLIP has no norm before the first block. That of the ViT is a projection (exactly a part of the patch embedding),
    and a division by each token's own deviation, for which each position's mean one on `images` stands in.
    """
    centred = torch.eye(visual.conv1.out_channels) - 1 / visual.conv1.out_channels
    own = torch.cat([visual.class_embedding[None], torch.zeros_like(visual.positional_embedding[1:])])
    own = own + visual.positional_embedding  # what a token has before it sees anything
    seen = F.pad(visual.conv1(images).flatten(2).mT, (0, 0, 1, 0))
    scale = visual.ln_pre.weight / (own + seen).std(-1, correction=0).mean(0)[:, None]
    position = own @ centred * scale + visual.ln_pre.bias
    # One convolution serves all positions, with their mean scale.
    patch = torch.einsum("oi,ichw->ochw", scale[1:].mean(0)[:, None] * centred, visual.conv1.weight)
    state = {
        "embeddings.class_embedding": torch.zeros(1, 1, len(patch)),  # it is in its position
        "embeddings.patch_embedding.weight": patch,
        "embeddings.patch_embedding.bias": torch.zeros(len(patch)),
        "embeddings.position_embedding": position[None],
        "post_layernorm.weight": visual.ln_post.weight,
        "post_layernorm.bias": visual.ln_post.bias,
    }
    names = {
        "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.in_proj": "self_attn.qkv", "attn.out_proj":
        "self_attn.projection", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
    }  # fmt: skip
    for index, block in enumerate(visual.transformer.resblocks):
        for key, value in block.state_dict().items():
            part, kind = key.replace("in_proj_", "in_proj.").rsplit(".", 1)
            state[f"encoder.layers.{index}.{names[part]}.{kind}"] = value
    return state


def train(device: str = "cpu") -> BlipForConditionalGeneration:
    """Train the mini captioner. About half an hour on one core.

    First the text decoder learns from the image tower's tokens, computed once; then all learns together.
    """
    model = build().to(device).train()
    pixels, texts = _examples()
    encoder = ImageTokens(model.vision_model, clip_vit_mini.PIXELS, clip_vit_mini.MEAN, clip_vit_mini.STD)
    tokens = _tokens(encoder, pixels, device)
    _fit(model.text_decoder, "decoder", DECODER_STEPS, lambda rows: tokens[rows].float().to(device), texts, device)
    del tokens
    _fit(model, "all", STEPS, lambda rows: encoder(pixels[rows].float().to(device) / 255), texts, device)
    return model


def _fit(
    model: nn.Module,
    name: str,
    steps: int,
    condition: Callable[[Int64[Tensor, " batch"]], Float[Tensor, "batch tokens width"]],
    texts: Int64[Tensor, "images captions length"],
    device: str,
) -> None:
    """Learn to tell a random caption of each image from what `condition` gives for it."""
    decoder = getattr(model, "text_decoder", model)
    draw, rate = generator(0, NAME, name), LEARNING_RATES[name]
    optimiser = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.05)
    progress = trange(steps, desc=f"{NAME}: {name}", mininterval=5)
    for _ in progress:
        rows = torch.randint(len(texts), (BATCH,), generator=draw)
        chosen = torch.randint(texts.shape[1], (BATCH,), generator=draw)
        sentences = texts[rows, chosen].to(device)
        pad = decoder.config.pad_token_id
        with training_precision(device):
            loss = decoder(
                input_ids=sentences,
                attention_mask=(sentences != pad).long(),
                encoder_hidden_states=condition(rows),
                labels=sentences.masked_fill(sentences == pad, -100),
                use_cache=False,
            ).loss
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        progress.set_postfix_str(f"loss {loss.item():.3f}", refresh=False)


def save(model: BlipForConditionalGeneration, folder: Path) -> None:
    """Write the captioner in half precision, as a folder that `from_pretrained` of transformers loads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "card.json").unlink(missing_ok=True)  # it is of the weights that are about to go
    with tempfile.TemporaryDirectory(dir=folder.parent) as part:
        with without_progress_bars():
            model.half().save_pretrained(part)
        model.float()
        tokenizer().save_pretrained(part)
        for file in Path(part).iterdir():
            file.replace(folder / file.name)


def _tokens(
    encoder: nn.Module, pixels: UInt8[Tensor, "images 3 64 64"], device: str
) -> Float16[Tensor, "images tokens width"]:
    with evaluating(encoder), torch.no_grad():
        return torch.cat([encoder(part.float().to(device) / 255).half().cpu() for part in pixels.split(250)])


def _examples() -> tuple[UInt8[Tensor, "images 3 64 64"], Int64[Tensor, "images captions length"]]:
    """The corpus, and the tokens of the five captions of each scene, with both ends.

    Raises ValueError for a caption that is too long or has a word that the tokenizer does not know.
    """
    words = tokenizer()
    pixels = torch.cat([batch.mul(255).round().byte() for batch in _corpus_images(SCENES)])
    told = [
        text
        for name, scenes in clip_vit_mini.corpus().items()
        for five in clip_vit_mini.captions(name, scenes[:SCENES])
        for text in five
    ]
    encoded = words(told, padding="max_length", max_length=LONGEST).input_ids
    if max(map(len, encoded)) > LONGEST or any(words.unk_token_id in row for row in encoded):
        raise ValueError("A caption is too long or has an unknown word: raise LONGEST, or take more sentences.")
    return pixels, torch.tensor(encoded).unflatten(0, (-1, 5))


def _corpus_images(each: int) -> Iterator[Float[Tensor, "batch 3 64 64"]]:
    for scenes in clip_vit_mini.corpus().values():
        yield from scenes[:each].batches(clip_vit_mini.PIXELS, 500)


def _sentences() -> Iterator[str]:
    """Captions that use every word at least once."""
    for name, scenes in clip_vit_mini.corpus().items():
        for five in clip_vit_mini.captions(name, scenes[:500]):
            yield from five
