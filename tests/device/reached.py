"""Which functions of the package take tensors, and which of them were called with a tensor of the GPU."""

import dataclasses
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import CodeType, FrameType
from typing import Any, get_args

from pretend_gpu import GPU, mark_of
from torch import Tensor, nn

# Where tensors are computed with. Data sets and the drawn world read and draw on the CPU, whatever the device.
FOLDERS = (
    *(
        "surgery",
        "texplain",
        "perturbation",
        "decomposition",
        "saliency",
        "metrics",
        "models",
        "importance",
        "studies",
        "audit",
    ),
)
TRAINS = "makes the weights that ship, on a CPU"
EXCEPTIONS = {
    "models.clip_vit_mini.": TRAINS,
    "studies.train_models.": TRAINS,
    "models.generator.train_": TRAINS,
    "models.muon.": TRAINS,
    "models.captioner.blip_weights": TRAINS,
    "models.captioner.save": TRAINS,
    "models.cards.": "writes the cards of the weights that ship",
    "texplain.rating": "shows people pictures, which lie on the CPU",
    "models.preprocessing.ShortestSide.extra_repr": "is a text",
    "importance.interface.Method.": "says what a method is",
}
# What is called with tensors of the CPU, whatever the device.
ON_THE_CPU = {
    "audit.auditing.confidence": "logits are results",
    "audit.concepts.common_regions": "pictures lie on the CPU",
    "audit.concepts.concepts_for": "pictures lie on the CPU",
    "audit.concepts.read_concepts": "pictures lie on the CPU",
    "audit.maps.Maps.why": "maps are results",
    "audit.photographs.read_listed": "pictures lie on the CPU",
    "audit.photographs.read_pictures": "pictures lie on the CPU",
    "audit.questions.Seen.images": "pictures lie on the CPU, of which batches are moved",
    "audit.questions.Seen.region": "pictures lie on the CPU, of which batches are moved",
    "audit.questions.Seen.sides": "pictures lie on the CPU, of which batches are moved",
    "audit.questions.askable": "pictures and answers lie on the CPU",
    "audit.questions.examples": "pictures and answers lie on the CPU",
    "audit.shards.together": "what shards leave are results",
    "models.classifiers.train": "moves each batch itself",
    "perturbation.removal.RemovalCurves.areas": "curves are results",
    "perturbation.search.MaskChecks.empty": "checks are results",
    "perturbation.search.MaskChecks.lowered": "checks are results",
    "perturbation.search.MaskChecks.range": "checks are results",
    "surgery.transplant.Choice.distinct": "a choice is a result",
    "texplain.word_maps.first_said": "sentences are results",
    "texplain.training.InMemory.__call__": "features of a whole data set, of which batches are moved",
}


def missing(called: Mapping[str, tuple[str, bool]]) -> dict[str, str]:
    """Which functions nobody called, or never with a tensor of the GPU, and are no exceptions.

    Studies are let off the latter, as what they keep of a data set lies on the CPU.
    """
    problems = {}
    for name, _ in functions():
        if any(name.startswith(exception) for exception in EXCEPTIONS):
            continue
        if name not in called:
            problems[name] = "nothing calls it on a GPU: add it to tests/device/cases.py, then `make pretend-gpu`"
        elif not (called[name][1] or name.startswith("studies.") or name in ON_THE_CPU):
            problems[name] = f"{called[name][0]} calls it with tensors of the CPU alone"
    return problems


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public function and method of these folders that takes tensors, models, or what holds them, by its name."""
    for folder in FOLDERS:
        package = import_module(f"xaikit.{folder}")
        for module in pkgutil.walk_packages(package.__path__, f"xaikit.{folder}."):
            found = import_module(module.name)
            for name, item in vars(found).items():
                if name.startswith("_") or getattr(item, "__module__", None) != module.name:
                    continue
                where = f"{module.name.removeprefix('xaikit.')}.{name}"
                if inspect.isfunction(item) and takes_tensors(item):
                    yield where, inspect.unwrap(item)
                elif inspect.isclass(item):
                    yield from ((f"{where}.{key}", each) for key, each in _methods(item))


def _methods(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The public methods of a class that holds tensors, or those that take some; constructors are called anyway."""
    for name, item in vars(kind).items():
        function = getattr(item, "fget", getattr(item, "__func__", item))
        public = not name.startswith("_") or name in ("__call__", "__getitem__", "__iter__")
        if public and inspect.isfunction(function) and (holds_tensors(kind) or takes_tensors(function)):
            yield name, inspect.unwrap(function)


def takes_tensors(function: Callable[..., Any]) -> bool:
    """Whether a parameter is annotated as a tensor, a model, or something that holds one."""
    return any(
        holds_tensors(each.annotation) for each in inspect.signature(inspect.unwrap(function)).parameters.values()
    )


def holds_tensors(annotation: Any, seen: frozenset[Any] = frozenset()) -> bool:
    """Whether a value of that type may have tensors in it."""
    if isinstance(annotation, str):
        return any(kind in annotation for kind in ("Tensor", "Module", "Translator", "Contributions"))
    if getattr(annotation, "array_type", None) is Tensor:
        return True
    if inspect.isclass(annotation) and annotation not in seen:
        if issubclass(annotation, Tensor | nn.Module):
            return True
        if dataclasses.is_dataclass(annotation):
            return any(holds_tensors(field.type, seen | {annotation}) for field in dataclasses.fields(annotation))
        if annotation.__module__.startswith("xaikit."):
            return takes_tensors(annotation.__init__)
    return any(holds_tensors(part, seen) for part in get_args(annotation))


def on_gpu(value: Any, depth: int = 3) -> bool:
    """Whether a tensor of the GPU is in a value, or in what it holds."""
    if isinstance(value, Tensor):
        return mark_of(value) == GPU
    if isinstance(value, nn.Module):
        return any(mark_of(each) == GPU for each in value.parameters()) or on_gpu(dict(value.named_buffers()), depth)
    if not depth:
        return False
    if isinstance(value, Mapping):
        return any(on_gpu(each, depth - 1) for each in value.values())
    if isinstance(value, list | tuple):
        return any(on_gpu(each, depth - 1) for each in value[:8])
    if type(value).__module__.startswith("xaikit.") or inspect.isfunction(value):
        held = vars(value) if hasattr(value, "__dict__") else {}
        closure = inspect.getclosurevars(value).nonlocals if inspect.isfunction(value) else {}
        return any(on_gpu(each, depth - 1) for each in (*held.values(), *closure.values()))
    return False


@contextmanager
def watching(wanted: Mapping[CodeType, str]) -> Iterator[dict[str, bool]]:
    """Fill a dictionary with the names of the functions called, and whether one of their arguments was on the GPU."""
    found: dict[str, bool] = {}

    def called(frame: FrameType, _event: str, _argument: Any) -> None:
        name = wanted.get(frame.f_code)
        if name is not None and not found.get(name):
            found[name] = any(on_gpu(each) for each in list(frame.f_locals.values()))

    before = sys.gettrace()
    sys.settrace(called)
    try:
        yield found
    finally:
        sys.settrace(before)
