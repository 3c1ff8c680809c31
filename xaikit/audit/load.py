"""A classifier by its name or file, in two parts: what it sees of a picture, and what it makes of that."""

import hashlib
import importlib.util
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModelForImageClassification

from xaikit.arguments import Texts, public
from xaikit.models.clip import Clip, load_clip
from xaikit.models.hub import find, load_whole, remember, said, timm_model
from xaikit.models.preprocessing import Preprocessed
from xaikit.storage.extras import extra
from xaikit.storage.files import read_json

FORMS = "timm:NAME, torchvision:NAME, hf:ID, open_clip:NAME, FILE.pt2, FILE.onnx or FILE.py:FUNCTION"
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@public
@dataclass(frozen=True, eq=False)
class Loaded:
    """A classifier: `look` makes of images in [0, 1] of any size what it sees, `model` takes that and gives logits.

    `names` are those of its classes, empty where nobody knows them; `source` says what was loaded, and `digest` is a
    sha256 of its weights. `gradients` says whether it can be differentiated; `clip` is there where it classifies by
    texts.
    """

    look: Preprocessed
    model: nn.Module
    names: tuple[str, ...]
    source: str
    digest: str
    gradients: bool = True
    clip: Clip | None = None

    @classmethod
    def of(cls, model: nn.Module, names: Sequence[str] = (), source: str = "", *, gradients: bool = True) -> "Loaded":
        """A classifier behind its preprocessing (`Preprocessed`), in evaluation mode and frozen.

        Raises ValueError for a model that is not `Preprocessed`: nobody else knows how it wants its pictures.
        """
        if not isinstance(model, Preprocessed):
            raise ValueError(
                f"How {type(model).__name__} wants its pictures is not known: put it behind xaikit.Preprocessed."
            )
        if gradients:
            model.eval().requires_grad_(False)
        options: dict[str, Any] = {"resize": model.resize, "scale": model.scale, "interpolation": model.interpolation}
        look = Preprocessed(
            nn.Identity(), model.sides, (0.0,) * 3, (1.0,) * 3, grey=model.grey, fill=model.fill, floor=model.floor,
            **options,
        )  # fmt: skip
        behind = Preprocessed(model.model, model.sides, model.mean, model.std, resize="squash")
        return cls(look, behind, tuple(names), source or type(model.model).__name__, weights_digest(model), gradients)


def weights_digest(model: nn.Module) -> str:
    """sha256 of a network's parameters and buffers, by name."""
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


@public
def load_classifier(name: str, classes: Sequence[str] = (), *, preprocessing: str = "", device: str = "cpu") -> Loaded:
    """A classifier by what it is called.

    `timm:NAME`, `torchvision:NAME` and `open_clip:NAME:WEIGHTS` have their library's weights, or with `:FILE` behind
    the name (of timm and torchvision) those of a state dict, safetensors or torch's own, of which nothing but tensors
    is read. `hf:ID` is an image classifier of transformers, from the hub or a folder. `FILE.pt2` is what torch.export
    saved, `FILE.onnx` is run by onnxruntime, without gradients. They have no preprocessing of their own, so that
    `preprocessing` is "imagenet" (its mean and deviation), "unit" (pixels in [0, 1]), or a JSON file of timm, open_clip
    or transformers. `FILE.py:FUNCTION` is a function without
    arguments that gives a `Preprocessed` module. `classes` name the classes, in order; CLIP needs them, as its texts.
    Raises ValueError for a name of none of these forms, and for what cannot be loaded.
    """
    scheme, _, rest = name.partition(":")
    makers: dict[str, Callable[..., Loaded]] = {"timm": _timm, "torchvision": _torchvision, "hf": _hf}
    with said(f"The classifier {name}"):
        if scheme in makers and rest:
            found = makers[scheme](rest, device)
        elif scheme == "open_clip" and rest:
            found = _open_clip(rest, classes, device)
        elif name.endswith((".pt2", ".onnx")):
            found = _from_file(Path(name), preprocessing, device)
        elif ".py:" in name:
            found = _own(name, device)
        else:
            raise ValueError(f"{name!r} names no classifier: give {FORMS}.")
    if classes and len(classes) != (count := outputs(found, device)):
        raise ValueError(f"{name} has {count} classes, and {len(classes)} names were given: name each.")
    names = tuple(classes) or found.names
    return replace(found, names=names, source=name)


def outputs(loaded: Loaded, device: str) -> int:
    """How many classes it has."""
    with torch.no_grad():
        return loaded.model(torch.full((1, 3, *loaded.look.sides), 0.5, device=device)).shape[1]


def _split(rest: str) -> tuple[str, Path | None]:
    """A name, and the file of weights behind it."""
    name, _, file = rest.partition(":")
    return name, Path(file) if file else None


def _timm(rest: str, device: str) -> Loaded:
    name, file = _split(rest)
    if file is None:
        model = timm_model(name)
    else:
        state = read_state(file)
        model = timm_model(
            name, pretrained=False, num_classes=_classes_in(state, timm_model(name, pretrained=False), file)
        )
        _fill(model, state, file)
    return Loaded.of(Preprocessed.of(model).to(device), _names_of(model), rest)


def _torchvision(rest: str, device: str) -> Loaded:
    name, file = _split(rest)
    if name not in torchvision.models.list_models(torchvision.models):
        raise ValueError(f"torchvision knows no classifier {name!r}; its names are those of list_models().")
    weights = torchvision.models.get_model_weights(name).DEFAULT
    if file is None:
        model = torchvision.models.get_model(name)
        # As torchvision does it, but for `weights_only`: the file is a pickle, of which nothing but tensors is read.
        model.load_state_dict(weights.get_state_dict(progress=True, check_hash=True, weights_only=True))
        names: Sequence[str] = weights.meta.get("categories", ())
    else:
        state = read_state(file)
        count = _classes_in(state, torchvision.models.get_model(name), file)
        model, names = torchvision.models.get_model(name, num_classes=count), ()
        _fill(model, state, file)
    return Loaded.of(Preprocessed.of(model, weights).to(device), names, rest)


class _Logits(nn.Module):
    """A classifier of transformers that gives logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        return self.model(pixel_values=images).logits


def _hf(rest: str, device: str) -> Loaded:
    source = find(rest)
    model = load_whole(AutoModelForImageClassification, source)
    processor = AutoImageProcessor.from_pretrained(source.name, **source.options)
    remember(source)
    labels = model.config.id2label
    names = [str(labels[index]) for index in range(len(labels))]
    if all(each == f"LABEL_{index}" for index, each in enumerate(names)):
        names = []
    return Loaded.of(Preprocessed.of(_Logits(model), processor).to(device), names, rest)


def _open_clip(rest: str, classes: Texts | Sequence[str], device: str) -> Loaded:
    if not classes:
        raise ValueError("CLIP classifies by texts: name its classes (--classes, a text a line).")
    clip = named_clip(rest, device)
    prompts = [each if " " in each.strip() else f"a photo of a {each}" for each in classes]
    tower = clip.image_encoder
    logits = ByTexts(tower.model, clip.encode_texts(prompts), clip.logit_scale)
    options: dict[str, Any] = {"resize": tower.resize, "scale": tower.scale, "interpolation": tower.interpolation}
    behind = Preprocessed(logits, tower.sides, tower.mean, tower.std, fill=tower.fill, floor=tower.floor, **options)
    return replace(Loaded.of(behind.to(device), classes, rest), clip=clip)


def named_clip(name: str, device: str) -> Clip:
    """A CLIP by open_clip's NAME:WEIGHTS, or local-dir:FOLDER."""
    if name.startswith("local-dir:"):
        return load_clip(name, device=device)
    name, _, pretrained = name.partition(":")
    return load_clip(name, pretrained or None, device)


class ByTexts(nn.Module):
    """CLIP's logits of classes that texts name: cosines times its own scale."""

    def __init__(self, tower: nn.Module, texts: Float[Tensor, "classes features"], scale: float) -> None:
        super().__init__()
        self.tower, self.scale = tower, scale
        self.register_buffer("texts", texts)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """The logits."""
        return self.scale * F.normalize(self.tower(images), dim=-1) @ self.texts.T


class _Exported(nn.Module):
    """What torch.export saved, called as often as its batch size asks for. `sides` are None where any will do."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        program = torch.export.load(file)
        wanted = program.graph_signature.user_inputs
        if len(wanted) != 1:
            raise ValueError(f"{file} takes {len(wanted)} inputs: export a model that takes images alone")
        self.inner = program.module()
        shape = next(node.meta["val"].shape for node in program.graph.nodes if node.name in wanted)
        self.batch, *sides = (side if isinstance(side, int) else None for side in (shape[0], *shape[-2:]))
        self.sides = None if None in sides else sides

    def forward(self, images: Tensor) -> Tensor:
        return _in_fixed(self.inner, images, self.batch)


def _in_fixed(run: Callable[[Tensor], Tensor], images: Tensor, batch: int | None) -> Tensor:
    """What `run` gives for images, of which it takes `batch` at a time, no more and no fewer, or any number (None)."""
    if batch is None:
        return run(images)
    parts = []
    for part in images.split(batch):
        short = batch - len(part)
        full = torch.cat([part, part[:1].expand(short, -1, -1, -1)]) if short else part
        parts.append(run(full)[: len(part)])
    return torch.cat(parts)


_NUMBERS = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(double)": torch.float64}


class _Onnx(nn.Module):
    """An ONNX file, run by onnxruntime: pictures go to it and logits come back through the CPU's memory."""

    def __init__(self, file: Path, device: str) -> None:
        super().__init__()
        with extra("onnx"):
            import onnxruntime

        wanted = ["CPUExecutionProvider"]
        if torch.device(device).type == "cuda":
            if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
                wanted.insert(0, "CUDAExecutionProvider")
            else:
                warnings.warn(f"This onnxruntime has no CUDA, so that {file} runs on the CPU.", stacklevel=2)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = onnxruntime.InferenceSession(str(file), options, providers=wanted)
        except Exception as error:  # its own, which have nothing else in common
            raise ValueError(f"{file} is nothing that onnxruntime can run ({_first_line(error)})") from error
        self.digest = hashlib.sha256(b"".join(each.read_bytes() for each in _onnx_files(file))).hexdigest()
        taken, given = self.session.get_inputs(), self.session.get_outputs()
        for what, found in (("takes", taken), ("gives", given)):
            if len(found) != 1:
                names = ", ".join(each.name for each in found)
                raise ValueError(
                    f"{file} {what} {len(found)} tensors ({names}): export images in and logits out, alone"
                )
        (self.taken,) = taken
        shape = [side if isinstance(side, int) else None for side in self.taken.shape]  # others are names, or nothing
        if self.taken.type not in _NUMBERS or len(shape) != 4 or shape[1] not in (3, None):
            raise ValueError(
                f"{file} takes {self.taken.type} of shape {self.taken.shape}: export a model that takes images [batch, "
                "3, height, width] of floating point"
            )
        self.batch, _, *sides = shape
        self.sides = None if None in sides else sides

    def forward(self, images: Tensor) -> Tensor:
        return _in_fixed(self._run, images, self.batch)

    def _run(self, images: Tensor) -> Tensor:
        own = images.detach().to("cpu", _NUMBERS[self.taken.type]).contiguous().numpy()
        try:
            (logits,) = self.session.run(None, {self.taken.name: own})
        except Exception as error:
            kind = torch.OutOfMemoryError if "allocate" in str(error) else RuntimeError
            raise kind(f"onnxruntime cannot run the classifier: {_first_line(error)}") from error
        return torch.from_numpy(logits).to(images)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _onnx_files(file: Path) -> list[Path]:
    """An ONNX file, and those beside it that it says hold its weights (protobuf entries of the key "location")."""
    found = re.finditer(rb"\n\x08location\x12([\x01-\x7f])", content := file.read_bytes())
    names = {content[each.end() : each.end() + each[1][0]] for each in found}
    beside = [file.parent / name.decode(errors="replace") for name in sorted(names)]
    return [file, *(each for each in beside if each.is_file())]


def _from_file(file: Path, preprocessing: str, device: str) -> Loaded:
    if not preprocessing:
        raise ValueError(f"{file} does not say how it wants its pictures: add --preprocessing imagenet, unit or a file")
    if not file.is_file():
        raise ValueError(f"{file} is missing: name a file that was exported")
    model = _Onnx(file, device) if file.suffix == ".onnx" else _Exported(file)
    if preprocessing not in ("imagenet", "unit"):
        behind = Preprocessed.of(model, read_json(Path(preprocessing)))
    elif model.sides is None:
        raise ValueError(f"{file} takes pictures of any size: say which one, in a JSON file (--preprocessing)")
    else:
        colours = IMAGENET if preprocessing == "imagenet" else ((0.0,) * 3, (1.0,) * 3)
        behind = Preprocessed(model, model.sides, *colours, interpolation="bilinear")
    found = Loaded.of(behind.to(device), source=str(file), gradients=False)
    return replace(found, digest=model.digest) if isinstance(model, _Onnx) else found


def _own(name: str, device: str) -> Loaded:
    file, _, function = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"{path} is missing: name a file, and a function in it that gives the classifier")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(made := getattr(module, function, None)):
        raise ValueError(f"{path} has no function {function!r}: name one that gives the classifier")
    return Loaded.of(made().to(device), source=name)


# --- weights ----------------------------------------------------------------------------------------------------------


def read_state(file: Path) -> dict[str, Tensor]:
    """The tensors of a state dict: safetensors, or torch's own file, alone or under the key that trainers put it.

    Raises ValueError for a file that is missing, damaged, or holds more than tensors.
    """
    if not file.is_file():
        raise ValueError(f"{file} is missing: name a file of weights")
    try:
        held = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(f"{file} holds more than tensors, which may be code: save model.state_dict() alone") from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(held.get(key), dict):
            held = held[key]
    state = {key.removeprefix("module."): value for key, value in held.items() if isinstance(value, Tensor)}
    if not state:
        raise ValueError(f"{file} holds no weights: save model.state_dict()")
    return state


def _classes_in(state: dict[str, Tensor], model: nn.Module, file: Path) -> int:
    """How many classes the layer of a state dict has that is the model's last one."""
    kinds = (nn.Linear, nn.Conv2d)
    head = [name for name, module in model.named_modules() if isinstance(module, kinds)][-1]
    if f"{head}.weight" not in state:
        raise ValueError(f"{file} does not fit the model: it has no {head}.weight")
    return len(state[f"{head}.weight"])


def _fill(model: nn.Module, state: dict[str, Tensor], file: Path) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{file} does not fit the model: {reason}") from error


def _names_of(model: nn.Module) -> tuple[str, ...]:
    """The classes' names of a timm model's configuration, where they are there, and as many as it has."""
    names = (getattr(model, "pretrained_cfg", None) or {}).get("label_names") or ()
    return tuple(names) if len(names) == getattr(model, "num_classes", -1) else ()
