"""Methods behind one interface: each finds what is planted, and says little where nothing is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import InputXGradient, IntegratedGradients, Saliency
from sklearn.linear_model import Ridge
from torch import nn

from xaikit.importance import FORMS, METHODS, Classifier, Concepts, adapters, importance, interface, method

NAMES = ("class", "corner", "shade")
COUNT, SIDE = 64, 16


class Reader(nn.Module):
    """A small network whose head reads one of three numbers of a picture: of its middle, a corner or its shade."""

    def __init__(self, reads: int, strength: float = 1.0) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1, bias=False)
        self.norm = nn.BatchNorm2d(3)  # makes it "convolutional"
        self.head = nn.Linear(3, 2)
        with torch.no_grad():
            for layer in (self.first, self.second):
                layer.weight.copy_(torch.eye(3)[:, :, None, None])
            self.head.weight.zero_()
            self.head.weight[1, reads], self.head.bias[1] = strength, -0.1 * strength
            self.head.bias[0] = 0.0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.second(self.first(images))
        return self.head(maps.mean((2, 3)))


def pictures(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each factor is in a channel and at a place of its own."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.stack([torch.randperm(COUNT, generator=draw) % 2 for _ in NAMES], 1)
    masks = torch.zeros(3, COUNT, SIDE, SIDE, dtype=torch.bool)
    masks[0, :, 4:12, 4:12], masks[1, :, 12:, 12:], masks[2, :, :4] = True, True, True
    images = 0.05 * torch.rand(COUNT, 3, SIDE, SIDE, generator=draw)
    for factor in range(3):
        area = masks[factor, 0].float().mean()
        images[:, factor] += labels[:, factor, None, None] * masks[factor] * (0.04 / area)
    return images.clamp(0, 1), labels, masks


def asked(reads: int) -> tuple[Classifier, torch.Tensor, Concepts]:
    images, labels, masks = pictures()
    model = Reader(reads).eval().requires_grad_(False)
    with torch.no_grad():
        images_features = images.mean((2, 3))
        middle = images_features[:, reads].median()
        model.head.bias[1] = -middle  # so that both answers occur
    classifier = Classifier(model, "second", "second", "first", model.head.weight[1] - model.head.weight[0])

    def redraw(rows: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        found = images[rows].clone()
        for factor in range(3):
            area = masks[factor, 0].float().mean()
            sign = 1.0 - 2 * labels[rows, factor]
            moved = which[:, factor] * sign * 0.04 / area
            found[:, factor] += moved[:, None, None] * masks[factor, 0]
        return found.clamp(0, 1)

    words = tuple((frozenset({f"no-{name}"}), frozenset({name})) for name in NAMES)
    captions = [
        [" ".join(name for name, value in zip(NAMES, row.tolist(), strict=True) if value) or "nothing"]
        for row in labels
    ]
    texts = ((), (), ())
    return classifier, images, Concepts(NAMES, labels, masks, texts, words, (labels[:, reads], labels), redraw,
                                        {"captions": captions}, 0)  # fmt: skip


SEES = ["variance of the margin", "concept bottleneck", "probe × weight", "Grad-CAM", "integrated gradients",
        "intervention", "SHAP over factors"]  # fmt: skip


@pytest.mark.parametrize("reads", range(3))
@pytest.mark.parametrize("name", SEES)
def test_what_is_planted_is_found_whichever_it_is(name, reads) -> None:
    found = importance(METHODS[name], *asked(reads))
    assert int(found.argmax()) == reads, found


@pytest.mark.parametrize("name", ["variance of the margin", "intervention", "SHAP over factors"])
def test_what_is_not_used_has_next_to_nothing(name) -> None:
    found = importance(METHODS[name], *asked(1))
    assert found[[0, 2]].max() < 0.15 * found[1]


@pytest.mark.parametrize("name", [name for name, each in METHODS.items() if each.form == "null"])
def test_a_null_does_not_see_the_model(name) -> None:
    classifier, images, concepts = asked(0)
    other = Classifier(nn.Identity(), "", "", "", torch.zeros(1))  # any look at it would fail
    assert torch.equal(importance(METHODS[name], classifier, images, concepts),
                       importance(METHODS[name], other, images, concepts))  # fmt: skip


def test_co_occurrence_is_the_correlation_in_the_training_data() -> None:
    classifier, images, concepts = asked(2)
    right, labels = concepts.learned_from
    expected = [abs(np.corrcoef(labels[:, k], right)[0, 1]) for k in range(3)]
    np.testing.assert_allclose(importance(METHODS["co-occurrence"], classifier, images, concepts), expected, atol=1e-12)


def test_errors_are_explained_by_what_their_captions_share() -> None:
    """A reader of the corner errs where the corner is not the class: within a class its errors are told by it alone."""
    classifier, images, concepts = asked(1)
    found = importance(METHODS["B2T"], classifier, images, concepts)
    assert found[1] > 0.9 and found[[0, 2]].max() < 0.5


def test_the_share_inside_is_that_of_a_loop() -> None:
    draw = torch.Generator().manual_seed(1)
    maps, masks = torch.randn(4, 6, 6, generator=draw), torch.rand(3, 4, 6, 6, generator=draw) > 0.5
    expected = [[sum(max(float(v), 0) for v in maps[i][masks[f, i]]) / sum(max(float(v), 0) for v in maps[i].flatten())
                 for f in range(3)] for i in range(4)]  # fmt: skip
    torch.testing.assert_close(interface.share_inside(maps, masks), torch.tensor(expected, dtype=torch.float64))
    flat = torch.ones(4, 6, 6)
    torch.testing.assert_close(interface.over_area(flat, masks), torch.zeros(4, 3, dtype=torch.float64))


def test_probes_are_ridge_regressions() -> None:
    draw = torch.Generator().manual_seed(2)
    features, labels = torch.randn(50, 7, generator=draw), torch.randint(2, (50, 3), generator=draw)
    found = interface.probes(features, labels)
    x = features.double() - features.double().mean(0)
    alpha = 0.1 * float(x.square().mean()) * 50
    theirs = Ridge(alpha=alpha).fit(x, 2.0 * labels - 1).coef_
    np.testing.assert_allclose(found, theirs, atol=1e-9)


def test_correlations_are_numpys_and_0_for_what_is_constant() -> None:
    draw = torch.Generator().manual_seed(3)
    x, y = torch.randn(30, 2, generator=draw), torch.randn(30, 3, generator=draw)
    expected = [[np.corrcoef(x[:, i], y[:, j])[0, 1] for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(interface.correlation(x, y), expected, atol=1e-9)
    assert interface.correlation(torch.ones(30, 1), y).abs().max() == 0


def test_decodability_asks_no_head() -> None:
    found = [importance(METHODS["decodability"], *asked(reads)) for reads in range(3)]
    assert torch.equal(found[0], found[1]) and torch.equal(found[1], found[2]) and found[0].min() > 0.4


def test_tcav_is_one_sided_along_what_is_read() -> None:
    for reads in range(3):
        assert importance(METHODS["TCAV"], *asked(reads))[reads] == 1


def test_every_method_says_in_a_line_what_its_number_is() -> None:
    assert len(METHODS) >= 18 and {each.form for each in METHODS.values()} == set(FORMS)
    for each in METHODS.values():
        assert 3 < len(each.what.split()) < 25 and not each.what.endswith("."), each.name
    assert {each.paper for each in METHODS.values() if each.form in FORMS[:2]} == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("name", "form", "message"), [("TCAV", "baseline", "already"), ("new", "best", "Unknown form")]
)
def test_a_name_that_is_taken_and_an_unknown_form_are_refused(name, form, message) -> None:
    with pytest.raises(ValueError, match=message):
        method(name, form)


@pytest.mark.parametrize("given", [torch.zeros(2), torch.zeros(COUNT, 4), torch.tensor([1.0, float("nan"), 0.0])])
def test_what_a_method_gives_is_looked_at(given) -> None:
    of = interface.Method("odd", lambda *_: given, "baseline", "what it gives")
    with pytest.raises(ValueError, match="odd gives"):
        importance(of, *asked(0))


def curved(reads: int = 1) -> tuple[Classifier, torch.Tensor, Concepts]:
    """The same pictures for a network that is no straight line, so that the path and its baseline matter."""
    classifier, images, concepts = asked(reads)
    torch.manual_seed(reads)
    layers = [nn.Conv2d(3, 6, 3, 2), nn.Tanh(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, 2)]
    model = nn.Sequential(*layers).eval().requires_grad_(False)
    with torch.no_grad():
        margins = model(images).diff(dim=1)[:, 0]
        model[-1].bias[1] -= margins.median()  # so that both answers occur
    return replace(classifier, model=model), images, concepts


def test_integrated_gradients_are_captums() -> None:
    """By its path from the pictures' mean colour, for the answer that each picture has."""
    classifier, images, concepts = curved()
    few = images[: interface.FEW]
    grey = images.mean((0, 2, 3))[None, :, None, None].expand(1, -1, SIDE, SIDE)
    answers = classifier.margins(few).sign()
    assert len(answers.unique()) == 2
    theirs = IntegratedGradients(lambda seen, sign: classifier.margin(seen) * sign).attribute(
        few, grey, additional_forward_args=answers, n_steps=8, method="gausslegendre"
    )
    maps = theirs.sum(1).clamp_min(0)
    expected = [np.mean([float(own[where].sum() / own.sum()) for own, where in zip(maps, masks, strict=False)])
                for masks in concepts.masks]  # fmt: skip
    found = importance(METHODS["integrated gradients"], classifier, images, concepts)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("arrays", [False, True])
@pytest.mark.parametrize("explainer", [Saliency, InputXGradient, IntegratedGradients])
def test_an_explainer_of_captum_becomes_a_method(explainer, arrays) -> None:
    """As it is called by itself, of one picture after the other; in `arrays`, as Quantus hands captum's on."""
    classifier, images, concepts = curved()
    before, answers = images.clone(), (classifier.margins(images) > 0).long()
    expected = torch.zeros(len(NAMES), dtype=torch.float64)
    for row, answer in enumerate(answers.tolist()):
        own = images[row : row + 1].clone().requires_grad_()
        size = explainer(classifier.model).attribute(own, target=answer).detach().abs().sum(1)[0]
        expected += torch.stack([size[where[row]].sum() / size.sum() for where in concepts.masks]) / len(images)

    def explain(model: nn.Module, seen: torch.Tensor, targets: torch.Tensor) -> torch.Tensor | np.ndarray:
        maps = explainer(model).attribute(seen, target=targets)
        return maps.detach().numpy() if arrays else maps

    try:
        adapters.from_maps("captum's", explain, batch=7)
        found = importance(METHODS["captum's"], classifier, images, concepts)
    finally:
        METHODS.pop("captum's", None)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
    assert torch.equal(images, before) and not images.requires_grad


def test_an_explainer_of_another_library_becomes_a_method() -> None:
    """Maps of three channels, or of one."""

    def gradient_times_input(model: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(seen), targets, reduction="sum"), seen)
        return gradient * images

    try:
        adapters.from_maps("gradient times input", gradient_times_input)
        adapters.from_maps("too small", lambda model, images, targets: images[:, 0, ::2])
        found = importance(METHODS["gradient times input"], *asked(1))
        assert int(found.argmax()) == 1
        with pytest.raises(ValueError, match="of their size"):
            importance(METHODS["too small"], *asked(1))
    finally:
        for name in ("gradient times input", "too small"):
            METHODS.pop(name, None)
