"""What a method is given, and what it gives: one number for each factor, or one for each picture and factor."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from xaikit.models.clip import Clip
from xaikit.texplain.translator import Features
from xaikit.texplain.words import words_of

Images = Float[Tensor, "images 3 height width"]
Scores = Float[Tensor, " factors"] | Float[Tensor, "images factors"]


@dataclass(frozen=True, eq=False)
class Classifier:
    """A classifier of two classes, as a method may open it.

    `model` takes images in [0, 1] and gives two logits. `layer` names its last maps or tokens before the head, whose
    mean or first token the head reads; `map_layer` those that Grad-CAM takes, and `middle` some earlier ones.
    `weight` is the head's weight of class 1 minus that of class 0. `clip` is there where it is a probe on its tower.
    """

    model: nn.Module
    layer: str
    map_layer: str
    middle: str
    weight: Float[Tensor, " features"]
    clip: Clip | None = None

    def margin(self, images: Images) -> Float[Tensor, " images"]:
        """The logit of class 1 minus that of class 0; its sign is the answer."""
        logits = self.model(images)
        return logits[:, 1] - logits[:, 0]

    def margins(self, images: Images) -> Float[Tensor, " images"]:
        """The same, a hundred images at a time and without gradients."""
        with torch.no_grad():
            return torch.cat([self.margin(part) for part in images.split(100)])

    def features(self, images: Images) -> Float[Tensor, "images features"]:
        """What the head reads."""
        return _pooled(self, images, self.layer)

    def tokens(self, images: Images) -> Float[Tensor, "images tokens features"]:
        """The last maps or tokens before the head."""
        of = Features(self.model, self.layer)
        with torch.no_grad():
            return torch.cat([of(part) for part in images.split(100)])

    @property
    def convolutional(self) -> bool:
        """Whether its last layer gives maps."""
        return self.clip is None and any(isinstance(module, nn.BatchNorm2d) for module in self.model.modules())


def _pooled(classifier: Classifier, images: Images, layer: str) -> Float[Tensor, "images features"]:
    of = Features(classifier.model, layer, pooled=True)
    with torch.no_grad():
        return torch.cat([of(part)[:, 0] for part in images.split(100)])


@dataclass(frozen=True, eq=False)
class Concepts:
    """What may be known of the factors besides the classifier, and the tools that there are.

    `labels`: the value, 0 or 1, of each factor in each image; the first factor is the class. `masks`: where each is
    seen; both lie on the CPU. `texts`, `words`: a caption and the words of each of its values; empty where language
    has none.
    `learned_from`: the right answers and the labels of the training pictures. `redraw(rows, which)` draws the images
    `rows` again with the other value of the factors that are True in `which` [rows, factors]. `tools` are what a study
    lends: "clip", "clip_resnet", "captions", "sentences".
    """

    names: tuple[str, ...]
    labels: Int64[Tensor, "images factors"]
    masks: Bool[Tensor, "factors images height width"]
    texts: tuple[tuple[str, ...], ...]
    words: tuple[tuple[frozenset[str], ...], ...]
    learned_from: tuple[Int64[Tensor, " pictures"], Int64[Tensor, "pictures factors"]]
    redraw: Callable[[Int64[Tensor, " rows"], Bool[Tensor, "rows factors"]], Tensor]
    tools: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0


def _always(_classifier: Classifier, _concepts: Concepts) -> bool:
    return True


def with_captions(_classifier: Classifier, concepts: Concepts) -> bool:
    """Whether there are captions of the images."""
    return "captions" in concepts.tools


@dataclass(frozen=True)
class Method:
    """A way to tell which factors a classifier uses.

    `what` says in a line what its number is, and `form` what a reader has to know of it: "as published" or "tied to the
    decision" (the four papers', `paper` says which), "baseline", "null" (never sees the model) or "ceiling"
    (intervenes). `applies` says of which classifiers it can say anything.
    """

    name: str
    importance: Callable[[Classifier, Images, Concepts], Scores]
    form: str
    what: str
    paper: int | None = None
    applies: Callable[[Classifier, Concepts], bool] = _always


FEW = 24  # of the images given, those that a method with many passes takes
FORMS = ("as published", "tied to the decision", "baseline", "null", "ceiling")
METHODS: dict[str, Method] = {}


def method(
    name: str,
    form: str,
    *,
    paper: int | None = None,
    applies: Callable[[Classifier, Concepts], bool] = _always,
) -> Callable[[Callable[[Classifier, Images, Concepts], Scores]], Callable[[Classifier, Images, Concepts], Scores]]:
    """Register the function below as a method of that name; the first line of its docstring says what it gives.

    Raises ValueError for a name that is taken and an unknown form.

    >>> import torch
    >>> from xaikit.importance import METHODS, method
    >>> @method("always the class", "null")
    ... def always_the_class(classifier, images, concepts):
    ...     "1 for the class, whatever is shown."
    ...     return torch.eye(len(concepts.names))[0]
    >>> METHODS.pop("always the class").what
    '1 for the class, whatever is shown'
    """
    if name in METHODS:
        raise ValueError(f"There is a method {name!r} already: give yours another name.")
    if form not in FORMS:
        raise ValueError(f"Unknown form {form!r}: choose one of {', '.join(FORMS)}.")

    def register(function: Callable[[Classifier, Images, Concepts], Scores]) -> Callable[..., Scores]:
        what = (function.__doc__ or "").partition("\n")[0].rstrip(".")
        METHODS[name] = Method(name, function, form, what, paper, applies)
        return function

    return register


def scores_of(of: Method, classifier: Classifier, images: Images, concepts: Concepts) -> Scores:
    """What a method gives, on the CPU: one number a factor, or one for each picture and factor.

    Raises ValueError for a method that gives another shape, or a number that is not finite.
    """
    scores = torch.as_tensor(of.importance(classifier, images, concepts)).detach().double().cpu()
    if scores.shape not in ((len(concepts.names),), (len(images), len(concepts.names))):
        raise ValueError(f"{of.name} gives {tuple(scores.shape)}: give one number for each of {len(concepts.names)}.")
    if not scores.isfinite().all():
        raise ValueError(f"{of.name} gives a number that is not finite: {scores[~scores.isfinite()].tolist()[:5]}.")
    return scores


def importance(of: Method, classifier: Classifier, images: Images, concepts: Concepts) -> Float[Tensor, " factors"]:
    """One number a factor: the mean over pictures where the method gives one each. Raises as `scores_of`."""
    scores = scores_of(of, classifier, images, concepts)
    return scores if scores.ndim == 1 else scores.mean(0)


def correlation(x: Float[Tensor, "rows columns"], y: Float[Tensor, "rows others"]) -> Float[Tensor, "columns others"]:
    """Pearson's correlation of every column of `x` with every one of `y`; 0 where one is constant."""
    x, y = x.double() - x.double().mean(0), y.double() - y.double().mean(0)
    scale = x.norm(dim=0)[:, None] * y.norm(dim=0)
    return torch.where(scale > 1e-12, x.T @ y / scale.clamp_min(1e-12), 0.0)


def probes(
    features: Float[Tensor, "images features"], labels: Int64[Tensor, "images factors"], ridge: float = 0.1
) -> Float[Tensor, "factors features"]:
    """The directions of linear probes of all factors: ridge regression of ±1 on the features, which are centred.

    `ridge` is a share of the features' mean variance.
    """
    x = features.double() - features.double().mean(0)
    y = 2.0 * labels.double() - 1
    y = y - y.mean(0)
    scatter = x.T @ x / len(x)
    scatter += ridge * scatter.diagonal().mean() * torch.eye(len(scatter), dtype=x.dtype, device=x.device)
    return torch.linalg.solve(scatter, x.T @ y.to(x) / len(x)).T


def share_inside(
    maps: Float[Tensor, "images height width"], masks: Bool[Tensor, "factors images height width"]
) -> Float[Tensor, "images factors"]:
    """The share of each map's energy, where it is positive, that lies where each factor is seen."""
    maps = maps.double().clamp_min(0)
    total = maps.sum((1, 2)).clamp_min(1e-12)
    return ((maps * masks.to(maps)).sum((2, 3)) / total).T


def over_area(
    maps: Float[Tensor, "images height width"], masks: Bool[Tensor, "factors images height width"]
) -> Float[Tensor, "images factors"]:
    """The same less the share of the picture that the factor takes: what a map that knows nothing would have."""
    area = masks.double().mean((2, 3)).T.to(maps.device)
    return share_inside(maps, masks) - area


def names_it(texts: Sequence[Sequence[str]], words: Sequence[frozenset[str]]) -> Tensor:
    """For each picture, the share of its texts that have each of the sets of words [pictures, sets]."""
    found = [[[not own.isdisjoint(words_of(text)) for own in words] for text in each] for each in texts]
    return torch.tensor(found, dtype=torch.float64).mean(1)
