"""Choosing, swapping and scoring agree with loops written out by hand, the published protocol with its re-enactment."""

import copy
from collections.abc import Callable
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from xaikit.surgery.captions import (
    Captions,
    cue_contrast,
    cue_share,
    dominant_captions,
    published_columns,
    published_values,
    similarities,
    stale_edits,
)
from xaikit.surgery.matching import (
    SMALLEST_STD,
    ActivationStatistics,
    Maps,
    activation_statistics,
    convolutions,
    map_shapes,
    stages,
)
from xaikit.surgery.transplant import Choice, choose_maps, from_stage_on, network_surgery, shuffled, strongest

STAGES = ("layer1", "layer2", "layer3", "layer4")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def everything(source: Tensor, score: Tensor | None = None) -> Choice:
    return Choice(
        source, torch.zeros(len(source)) if score is None else score, torch.ones(len(source), dtype=torch.bool)
    )


# --- choosing ---------------------------------------------------------------------------------------------------


def test_best_takes_the_highest_score_of_each_target_and_lets_sources_serve_twice() -> None:
    scores = torch.tensor([[0.1, -0.9, 0.3], [0.8, -0.2, 0.7], [0.2, -0.5, 0.1]])
    choice = choose_maps(scores)
    assert choice.source.tolist() == [1, 1, 1] and choice.swapped.all() and choice.distinct() == 1
    assert torch.equal(choice.score, torch.tensor([0.8, -0.2, 0.7]))


@pytest.mark.parametrize("seed", range(3))
def test_one_to_one_is_the_best_of_all_assignments(seed) -> None:
    scores = drawn(6, 4, seed=seed)
    best = max(permutations(range(6), 4), key=lambda rows: sum(scores[row, j].item() for j, row in enumerate(rows)))
    choice = choose_maps(scores, "one-to-one")
    assert choice.source.tolist() == list(best) and choice.distinct() == 4
    assert choice.score.tolist() == [scores[row, j].item() for j, row in enumerate(best)]


def test_random_is_uniform_and_can_be_repeated() -> None:
    scores = drawn(4, 8_000)
    choice = choose_maps(scores, "random", generator=torch.Generator().manual_seed(5))
    again = choose_maps(scores, "random", generator=torch.Generator().manual_seed(5))
    other = choose_maps(scores, "random", generator=torch.Generator().manual_seed(6))
    assert torch.equal(choice.source, again.source) and not torch.equal(choice.source, other.source)
    counts = choice.source.bincount(minlength=4)
    assert ((counts - 2_000).abs() < 5 * (8_000 * 0.25 * 0.75) ** 0.5).all()
    assert choice.score.tolist() == [scores[row, j].item() for j, row in enumerate(choice.source)]


def test_choosing_says_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match=r"Unknown rule 'worst'; choose 'best', 'one-to-one' or 'random'"):
        choose_maps(drawn(3, 2), "worst")
    with pytest.raises(ValueError, match="3 maps cannot replace 4 one-to-one"):
        choose_maps(drawn(3, 4), "one-to-one")
    with pytest.raises(ValueError, match="'random' needs a generator"):
        choose_maps(drawn(3, 4), "random")


@pytest.fixture
def layered() -> tuple[Choice, ActivationStatistics]:
    """Choices for two stages of 4 and 6 maps."""
    statistics = ActivationStatistics({"a": 4, "b": 6}, torch.zeros(10), torch.ones(10))
    score = torch.tensor([0.1, -0.9, 0.5, 0.3, 0.2, 0.4, -0.6, 0.0, 0.1, 0.9])
    return everything(torch.tensor([7, 7, 3, 1, 0, 2, 2, 9, 5, 4]), score), statistics


def test_shuffled_deals_the_same_pairs_within_each_stage(layered) -> None:
    choice, statistics = layered
    dealt = shuffled(choice, statistics, torch.Generator().manual_seed(0))
    for span in statistics.span.values():
        pairs = [sorted(zip(c.source[span].tolist(), c.score[span].tolist(), strict=True)) for c in (choice, dealt)]
        assert pairs[0] == pairs[1]
    assert not torch.equal(dealt.source, choice.source) and torch.equal(dealt.swapped, choice.swapped)
    again = shuffled(choice, statistics, torch.Generator().manual_seed(0))
    assert torch.equal(dealt.source, again.source)


@pytest.mark.parametrize(
    ("fraction", "kept"), [(0.0, []), (0.5, [1, 2, 5, 6, 9]), (0.25, [1, 6, 9]), (1.0, list(range(10)))]
)
def test_strongest_keeps_the_maps_of_largest_score_in_each_stage(layered, fraction, kept) -> None:
    choice, statistics = layered
    chosen = strongest(choice, statistics, fraction)
    assert chosen.swapped.nonzero()[:, 0].tolist() == kept
    assert torch.equal(chosen.source, choice.source) and torch.equal(chosen.score, choice.score)
    assert chosen.distinct() == len({choice.source[j].item() for j in kept})


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_strongest_needs_a_fraction(layered, fraction) -> None:
    with pytest.raises(ValueError, match="fraction of strongest"):
        strongest(*layered, fraction)


# --- surgery ----------------------------------------------------------------------------------------------------


class Vgg(nn.Module):
    """A classifier that overwrites each convolution's output in place."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 8, 3, 2, padding=1),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Conv2d(8, 10, 3, 4, padding=1),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(x).mean((2, 3))


@pytest.fixture
def images() -> Tensor:
    """Smooth ones, each with its own tint."""
    return F.avg_pool2d(drawn(6, 3, 70, 70, seed=2), 7, stride=1) * 4 + drawn(6, 3, 1, 1, seed=6) * 2


@pytest.fixture
def tower(images) -> ModifiedResNet:
    """CLIP's image tower with 16, 32, 64 and 128 maps, fitted to the images' scale, with one dead map a stage."""
    torch.manual_seed(0)
    model = ModifiedResNet([1, 1, 1, 1], output_dim=8, heads=4, image_size=64, width=4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias, 0, 0.3)
            module.momentum = 1.0
    for name in STAGES:
        block = model.get_submodule(name)[-1]
        for norm in (block.bn3, block.downsample[-1]):
            norm.weight.data[0] = norm.bias.data[0] = 0
    model.train()(images)
    return model.eval().requires_grad_(False)


@pytest.fixture
def classifier() -> Vgg:
    torch.manual_seed(1)
    return Vgg().eval().requires_grad_(False)


@pytest.fixture
def models(tower, classifier, images) -> tuple[Maps, ActivationStatistics, Maps, ActivationStatistics]:
    """Target and source with their statistics, as `network_surgery` takes them."""
    target, source = stages(tower), convolutions(classifier)
    return target, activation_statistics(target, [images]), source, activation_statistics(source, [images])


@pytest.fixture
def choice(models) -> Choice:
    return everything(torch.randint(24, (240,), generator=torch.Generator().manual_seed(3)))


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def transplant(name: str, output: Tensor, models: tuple, choice: Choice, images: Tensor, interpolation: str) -> Tensor:
    """What stage `name` gives after the swap: source activations by hand, Eq. 2, resize, Eq. 4, map by map."""
    _, target_statistics, source, source_statistics = models
    raw, x = {}, images
    for key, layer in source.model.convs.named_children():
        x = layer(x)
        if isinstance(layer, nn.Conv2d):
            raw[f"convs.{key}"] = x.clone()
    output = output.clone()
    for channel in range(output.shape[1]):
        j = target_statistics.span[name].start + channel
        if not choice.swapped[j]:
            continue
        i = choice.source[j].item()
        (layer,) = [key for key, span in source_statistics.span.items() if span.start <= i < span.stop]
        maps = raw[layer][:, i - source_statistics.span[layer].start].double()
        normalised = (maps - source_statistics.mean[i]) / max(source_statistics.std[i].item(), SMALLEST_STD)
        resized = F.interpolate(normalised[:, None], output.shape[-2:], mode=interpolation, align_corners=False)[:, 0]
        std = max(target_statistics.std[j].item(), SMALLEST_STD)
        output[:, channel] = (resized * std + target_statistics.mean[j]).float()
    return output


def by_hand(models: tuple, choice: Choice, images: Tensor, only: tuple[str, ...], interpolation: str) -> Tensor:
    """The tower's features with `only` these stages swapped, stage after stage."""
    tower = models[0].model
    x = tower.stem(images)
    for name in STAGES:
        x = tower.get_submodule(name)(x)
        if name in only:
            x = transplant(name, x, models, choice, images, interpolation)
    return tower.attnpool(x)


@pytest.mark.parametrize("only", [None, ("layer1",), ("layer2", "layer4"), ("layer3",), ()])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_surgery_equals_surgery_by_hand(models, choice, images, only, interpolation) -> None:
    choice.swapped[::7] = False
    expected = by_hand(models, choice, images, STAGES if only is None else only, interpolation)
    before = models[0].model(images)
    with network_surgery(*models, choice, only=only, interpolation=interpolation):
        swapped = models[0].model(images)
    torch.testing.assert_close(swapped, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(swapped, before) if only == () else (swapped - before).abs().amax() > 1e-2


def test_gradients_pass_through_the_surgery(models, choice, images) -> None:
    choice.swapped[::3] = False
    images.requires_grad_()
    (expected,) = torch.autograd.grad(by_hand(models, choice, images, STAGES, "bilinear").sum(), images)
    with network_surgery(*models, choice):
        (gradient,) = torch.autograd.grad(models[0].model(images).sum(), images)
    torch.testing.assert_close(gradient, expected, atol=1e-4 * expected.abs().amax().item(), rtol=1e-3)


def test_bicubic_differs_from_bilinear(models, choice, images) -> None:
    outputs = []
    for interpolation in ("bilinear", "bicubic"):
        with network_surgery(*models, choice, interpolation=interpolation):
            outputs.append(models[0].model(images))
    assert (outputs[0] - outputs[1]).abs().amax() > 1e-3


def test_a_network_swapped_for_itself_does_not_change_to_the_last_bit(tower, images) -> None:
    target, source = stages(tower), stages(copy.deepcopy(tower))
    statistics = activation_statistics(target, images.split(4))
    assert (statistics.std < SMALLEST_STD).sum() >= 4
    before = tower(images)
    for only in (None, *((name,) for name in STAGES)):
        with network_surgery(target, statistics, source, statistics, everything(torch.arange(240)), only=only):
            assert torch.equal(tower(images), before)
    wrong = everything(torch.arange(240).roll(1))
    with network_surgery(target, statistics, source, statistics, wrong):
        assert not torch.allclose(tower(images), before, atol=1e-3)


def test_swapping_all_maps_of_the_last_stage_hides_all_before_it(models, choice, images) -> None:
    with network_surgery(*models, choice):
        all_four = models[0].model(images)
    with network_surgery(*models, choice, only=("layer4",)):
        last = models[0].model(images)
    assert torch.equal(all_four, last)


@pytest.mark.parametrize("only", [("layer4",), ("layer2", "layer3"), ("layer1",), ("layer1", "layer4")])
def test_a_tower_from_a_stage_on_gives_the_same_to_the_last_bit(models, choice, images, only) -> None:
    target, target_statistics, source, source_statistics = models
    choice.swapped[target_statistics.span["layer3"].start] = False
    start = "layer2" if only == ("layer2", "layer3") else only[-1]  # the third stage keeps a map of its own
    with network_surgery(*models, choice, only=only):
        whole = target.model(images)
    tower = from_stage_on(target.model, start, map_shapes(target, images)[start])
    rest = tuple(name for name in only if name >= start)
    with (
        target.model.conv1.register_forward_hook(lambda *_: pytest.fail("the stem ran")),
        network_surgery(stages(tower), target_statistics, source, source_statistics, choice, only=rest),
    ):
        assert torch.equal(tower(images), whole)
    assert hooks(tower) == 0
    assert (whole - target.model(images)).abs().amax() > 1e-2


def test_a_tower_has_no_part_from_an_unknown_stage_on(tower) -> None:
    with pytest.raises(ValueError, match="There is no stage stem; choose from layer1, layer2, layer3, layer4"):
        from_stage_on(tower, "stem", (4, 16, 16))


def test_models_are_as_before_after_surgery_and_after_a_failure_inside(models, choice, images) -> None:
    target, source = models[0].model, models[2].model
    source.train()
    before = target(images), copy.deepcopy(target.state_dict()), copy.deepcopy(source.state_dict())

    def untouched() -> bool:
        same = all(
            torch.equal(value, old[key])
            for model, old in ((target, before[1]), (source, before[2]))
            for key, value in model.state_dict().items()
        )
        flags = all(module.training for module in source.modules()) and not target.training
        return same and flags and hooks(target) == hooks(source) == 0 and torch.equal(target(images), before[0])

    with network_surgery(*models, choice):
        assert hooks(target) > 5 and not source.convs[4].training
        target(images)
    assert untouched()
    with pytest.raises(ZeroDivisionError), network_surgery(*models, choice):
        target(images)
        raise ZeroDivisionError
    assert untouched()
    with pytest.raises(RuntimeError), network_surgery(*models, choice):
        target(images[:, :2])
    assert untouched()


def test_surgery_never_uses_the_maps_of_other_images(models, choice, images) -> None:
    target, statistics, *rest = models
    whole = nn.Sequential(nn.Identity(), target.model)
    with network_surgery(stages(whole), statistics, *rest, choice):
        one, two = whole(images[:2]), whole(images[2:4])
        assert torch.equal(whole(images[:2]), one) and not torch.allclose(one, two)
        with pytest.raises(ValueError, match="'layer1' runs outside of a pass of the Sequential: call that model"):
            target.model(images[2:4])
        assert torch.equal(whole(images[2:4]), two)
    assert hooks(whole) == 0


def test_images_may_be_given_by_name(models, choice, images) -> None:
    with network_surgery(*models, choice):
        assert torch.equal(models[0].model(x=images), models[0].model(images))


@pytest.mark.parametrize("level", [1.0, 300.0, 3e4])
def test_a_map_that_is_constant_becomes_the_mean_of_its_place_and_no_noise(level) -> None:
    """A large mean over the smallest deviation must not cancel only up to rounding."""
    torch.manual_seed(0)
    images = torch.rand(4, 3, 9, 9)
    flat, target = (nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()) for _ in range(2))
    flat[0].weight.data[0], flat[0].bias.data[0] = 0, level
    maps = Maps(target, {"0": target[0]}), Maps(flat, {"0": flat[0]})
    statistics = [activation_statistics(each, [images]) for each in maps]
    assert statistics[1].std[0] == 0 and statistics[0].std.min() > 0.1
    with network_surgery(maps[0], statistics[0], maps[1], statistics[1], everything(torch.tensor([0, 0]))):
        found = target(images).unflatten(1, (2, -1))
    assert torch.equal(found, statistics[0].mean[:, None].expand_as(found))


@pytest.mark.parametrize("level", [0.0, 300.0])
def test_the_equations_hold_to_rounding_beside_a_large_mean(level) -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 3, 9, 9)
    source, target = (nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()) for _ in range(2))
    source[0].weight.data *= 1e-2
    source[0].bias.data += level
    maps = Maps(target, {"0": target[0]}), Maps(source, {"0": source[0]})
    one, other = (activation_statistics(each, [images]) for each in maps)
    with network_surgery(maps[0], one, maps[1], other, everything(torch.tensor([1, 0]))):
        found = target(images).unflatten(1, (2, 7, 7)).double()
    raw = source[0](images)[:, [1, 0]].double()
    mean, std = (values[[1, 0]].double()[:, None, None] for values in (other.mean, other.std))
    expected = (raw - mean) / std * one.std.double()[:, None, None] + one.mean.double()[:, None, None]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_surgery_says_what_does_not_fit_and_hooks_nothing(models, choice) -> None:
    target, target_statistics, source, source_statistics = models

    def refuses(sentence: str, *arguments: object, **options: object) -> None:
        with pytest.raises(ValueError, match=sentence), network_surgery(*arguments, **options):
            raise AssertionError("never entered")
        assert hooks(target.model) == hooks(source.model) == 0

    refuses("no layer layer9, stem to swap; choose from", *models, choice, only=("stem", "layer1", "layer9"))
    refuses("Unknown interpolation 'nearest'; choose 'bilinear' or 'bicubic'", *models, choice, interpolation="nearest")
    refuses("share layers; give copy.deepcopy", target, target_statistics, target, target_statistics, choice)
    part = Maps(source.model, dict(list(source.layers.items())[:2]))
    refuses("statistics are not those of Vgg", target, target_statistics, part, source_statistics, choice)
    refuses("statistics are not those of ModifiedResNet", target, source_statistics, source, source_statistics, choice)
    refuses("choice of maps belongs to other models", *models, everything(torch.zeros(239, dtype=torch.int64)))
    refuses("choice of maps belongs to other models", *models, everything(torch.full((240,), 24)))


# --- captions ---------------------------------------------------------------------------------------------------

CAPTIONS = Captions({"shape": ("a five", "an eight"), "colour": ("green", "red", "blue")})


def test_captions_stand_cue_after_cue() -> None:
    assert CAPTIONS.texts == ["a five", "an eight", "green", "red", "blue"]
    assert CAPTIONS.texts[CAPTIONS.columns("colour")] == ["green", "red", "blue"]
    assert CAPTIONS.texts[CAPTIONS.columns("shape")] == ["a five", "an eight"]


def test_captions_say_what_is_missing() -> None:
    with pytest.raises(ValueError, match="There is no caption"):
        Captions({})
    with pytest.raises(ValueError, match="'colour' has 1 caption; it needs at least two"):
        Captions({"shape": ("a five", "an eight"), "colour": ("green",)})
    with pytest.raises(ValueError, match="no caption for the cue 'size'; there are some for shape, colour"):
        CAPTIONS.columns("size")


def test_similarities_are_cosines(images) -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * 64 * 64, 8)).train()
    text = drawn(5, 8) * 3
    similarity = similarities(encoder, text, images.split(4))
    assert encoder.training and encoder[1].training and not similarity.requires_grad
    features = encoder[2](images.flatten(1))
    for n in range(6):
        for c in range(5):
            expected = features[n] @ text[c] / (features[n].norm() * text[c].norm())
            torch.testing.assert_close(similarity[n, c], expected.detach(), atol=1e-6, rtol=1e-5)


def test_similarities_that_are_nan_are_refused(images) -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 8))
    encoder[1].weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="Some similarities are NaN"):
        similarities(encoder, drawn(5, 8), [images])
    with pytest.raises(ValueError, match="There is no image in the data"):
        similarities(encoder, drawn(5, 8), [])


# --- the corrected protocol -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cue", "first", "count"), [("shape", 0, 2), ("colour", 2, 3)])
def test_cue_contrast_is_right_minus_the_best_wrong_caption(cue, first, count) -> None:
    similarity = drawn(40, 5)
    label = torch.randint(count, (40,), generator=torch.Generator().manual_seed(1))
    contrast = cue_contrast(similarity, CAPTIONS, cue, label)
    for n in range(40):
        values = similarity[n, first : first + count].tolist()
        right = values.pop(label[n])
        assert contrast[n].item() == pytest.approx(right - max(values), abs=1e-6)
    assert 0 < (contrast > 0).sum() < 40


def test_cue_contrast_says_which_cue_has_no_answer() -> None:
    similarity, label = drawn(4, 5), torch.tensor([0, 1, 1, 0])
    with pytest.raises(ValueError, match="no caption for the cue 'size'"):
        cue_contrast(similarity, CAPTIONS, "size", label)
    for bad in (-1, 2):
        with pytest.raises(ValueError, match="no right caption for the cue 'shape'"):
            cue_contrast(similarity, CAPTIONS, "shape", torch.tensor([0, 1, bad, 0]))


# --- the protocol as published ----------------------------------------------------------------------------------


def slow_shares(values: Tensor, labels: dict[str, Tensor]) -> dict[str, float]:
    """Count image by image which caption is highest."""
    counts: dict[str, float] = {}
    for cue, label in labels.items():
        for key in ("any",) if (label < 0).all() else ("correct", "wrong"):
            counts[f"{key} {cue}"] = 0.0
    cues = ["shape"] * 2 + ["colour"] * 3
    meanings = [0, 1, 0, 1, 2]
    for n, row in enumerate(values.tolist()):
        top = row.index(max(row))
        cue = cues[top]
        if f"any {cue}" in counts:
            key = f"any {cue}"
        else:
            key = f"correct {cue}" if labels[cue][n] == meanings[top] else f"wrong {cue}"
        counts[key] += 1 / len(values)
    return counts


@pytest.mark.parametrize("grey", [False, True])
def test_dominant_captions_count_each_image_once(grey) -> None:
    draw = torch.Generator().manual_seed(1)
    shape, colour = torch.randint(2, (200,), generator=draw), torch.randint(3, (200,), generator=draw)
    labels = {"shape": shape, "colour": torch.full((200,), -1) if grey else colour}
    values = drawn(200, 5)
    shares = dominant_captions(values, CAPTIONS, labels)
    expected = slow_shares(values, labels)
    assert shares == pytest.approx(expected) and all(share > 0.05 for share in shares.values())
    assert set(shares) == {"correct shape", "wrong shape"} | (
        {"any colour"} if grey else {"correct colour", "wrong colour"}
    )
    assert sum(shares.values()) == pytest.approx(1)
    colours = [share for key, share in expected.items() if "colour" in key]
    assert cue_share(shares, "colour") == pytest.approx(sum(colours))
    assert cue_share(shares, "shape") + cue_share(shares, "colour") == pytest.approx(1)


def test_dominant_captions_need_labels_for_the_same_cues() -> None:
    zeros = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"labels for \['shape'\] but captions for \['colour', 'shape'\]"):
        dominant_captions(drawn(4, 5), CAPTIONS, {"shape": zeros})
    with pytest.raises(ValueError, match=r"labels for \['colour', 'shape', 'size'\] but captions"):
        dominant_captions(drawn(4, 5), CAPTIONS, {"shape": zeros, "colour": zeros, "size": zeros})


@pytest.mark.parametrize("bad", [[0, 1, 2, 0], [0, 1, -1, 0]])
def test_dominant_captions_refuse_labels_without_a_caption(bad) -> None:
    """A third shape would be taken for the first colour, a grey digit among coloured ones for the last shape."""
    labels = {"shape": torch.tensor(bad), "colour": torch.tensor([0, 1, 2, 0])}
    with pytest.raises(ValueError, match="Some images have no right caption for the cue 'shape'"):
        dominant_captions(drawn(4, 5), CAPTIONS, labels)


def tagged(settings: int, images: int, captions: int) -> Tensor:
    """Every entry says where it stands: setting · 10,000 + image · 10 + caption."""
    s, n, c = torch.meshgrid(torch.arange(settings), torch.arange(images), torch.arange(captions), indexing="ij")
    return (s * 10_000 + n * 10 + c).float()


def taken(columns: Tensor) -> list[tuple[int, int]]:
    """(setting, image) of each row of tagged columns, whose captions must stand in order."""
    assert torch.equal(columns % 10, torch.arange(columns.shape[1]).float().expand_as(columns))
    return [(int(tag) // 10_000, int(tag) % 10_000 // 10) for tag in columns[:, 0]]


def test_published_columns_take_other_images_and_stages_than_they_are_taken_for() -> None:
    before, after = map(taken, published_columns(tagged(5, 25, 4)))
    assert before == [(5 * k // 25, 5 * k % 25) for k in range(25)]
    assert after == [((5 * k + 4) // 25, (5 * k + 4) % 25) for k in range(25)]
    # Row k should hold image k with nothing swapped before and with everything swapped after.
    assert [k for k in range(25) if before[k] == (0, k)] == [0]
    assert [k for k in range(25) if after[k] == (4, k)] == [24]
    assert all(b[0] == a[0] and a[1] == b[1] + 4 for b, a in zip(before, after, strict=True))
    assert {image for _, image in before} == {0, 5, 10, 15, 20} and {image for _, image in after} == {4, 9, 14, 19, 24}


@pytest.mark.parametrize(("settings", "images"), [(5, 25), (3, 6), (5, 4)])
def test_published_columns_equal_the_notebooks_slices(settings, images) -> None:
    similarity = tagged(settings, images, 4)
    stacked = [similarity[s, n] for s in range(settings) for n in range(images)]
    before, after = published_columns(similarity)
    assert torch.equal(before, torch.stack(stacked[0::settings]))
    assert torch.equal(after, torch.stack(stacked[settings - 1 :: settings]))
    assert len(before) == len(after) == images


def test_stale_edits_show_the_batch_before_until_the_last_stage_is_edited() -> None:
    fresh = tagged(5, 12, 4).unflatten(1, (3, 4)).transpose(0, 1)
    seen = stale_edits(fresh[0], fresh[:, 4].flatten(0, 1))
    for batch in range(3):
        for setting in range(5):
            stale = batch > 0 and setting < 4
            expected = fresh[batch - 1, 4] if stale else fresh[batch, setting]
            assert torch.equal(seen[batch, setting], expected)
    assert torch.equal(fresh, tagged(5, 12, 4).unflatten(1, (3, 4)).transpose(0, 1))


def test_published_values_difference_follows_tags_through_both_defects() -> None:
    values = published_values(tagged(5, 50, 4)[:, :25], tagged(5, 50, 4)[4])
    zero, swapped = taken(values["zero"]), taken(values["swapped"])
    assert zero[:6] == [(0, 0), (0, 5), (0, 10), (0, 15), (0, 20), (1, 0)]
    # In the second batch all but the last setting are the first batch's, fully swapped; the last is its own.
    assert zero[25:45] == [(4, image) for image in (0, 5, 10, 15, 20)] * 4
    assert zero[45:] == [(4, image) for image in (25, 30, 35, 40, 45)]
    assert swapped[25:45] == [(4, image) for image in (4, 9, 14, 19, 24)] * 4
    assert swapped[45:] == [(4, image) for image in (29, 34, 39, 44, 49)]
    assert torch.equal(values["influence"], values["swapped"] - values["zero"])


def test_a_last_batch_may_be_smaller_and_sees_as_much_of_the_one_before() -> None:
    whole, short = (published_values(tagged(5, n, 4)[:, :25], tagged(5, n, 4)[4]) for n in (75, 57))
    zero, swapped = taken(short["zero"]), taken(short["swapped"])
    assert zero[:50] == taken(whole["zero"])[:50] and swapped[:50] == taken(whole["swapped"])[:50]
    # Four settings of seven images of the second batch, then the last batch's own: every fifth of these 35.
    seen = [(4, 25 + image) for image in range(7)] * 4 + [(4, 50 + image) for image in range(7)]
    assert zero[50:] == seen[::5] and swapped[50:] == seen[4::5]
    with pytest.raises(ValueError, match="7 images are fewer than the 25 of the first batch"):
        published_values(tagged(5, 50, 4)[:, :25], tagged(5, 50, 4)[4, :7])


def reenacted(models: tuple, choice: Choice, text: Tensor, batches: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The public notebook's loop: edits are hooks that stay, similarities are stacked stage by stage and sliced."""
    tower = models[0].model
    edits: dict[str, Tensor] = {}

    def edit(name: str) -> Callable[[nn.Module, tuple, Tensor], Tensor]:
        return lambda _module, _inputs, output: edits.get(name, output)

    handles = [tower.get_submodule(name).register_forward_hook(edit(name)) for name in STAGES]
    zero, swapped = [], []
    for images in batches:  # CLIP was restored before this loop, and is not restored in it
        stacked = []
        for count in range(5):
            if count:
                name = STAGES[count - 1]
                place = torch.empty(len(images), *SHAPES[name])
                edits[name] = transplant(name, place, models, choice, images, "bicubic")
            similarity = F.normalize(tower(images), dim=-1) @ F.normalize(text, dim=-1).T
            stacked.extend(similarity)
        columns = torch.stack(stacked, dim=1)  # captions × (5 · images)
        zero.append(columns[:, ::5].T)
        swapped.append(columns[:, 4::5].T)
    for handle in handles:
        handle.remove()
    result = {"zero": torch.cat(zero), "swapped": torch.cat(swapped)}
    return {**result, "influence": result["swapped"] - result["zero"]}


SHAPES = {"layer1": (16, 16, 16), "layer2": (32, 8, 8), "layer3": (64, 4, 4), "layer4": (128, 2, 2)}


def test_published_values_equal_a_reenactment_with_hooks_that_stay(models, choice, images) -> None:
    tower, text = models[0].model, drawn(4, 8, seed=4)
    batches = images.split(2)
    fresh = []
    for count in range(5):
        with network_surgery(*models, choice, only=STAGES[:count], interpolation="bicubic"):
            fresh.append(similarities(tower, text, batches))
    fresh = torch.stack(fresh)
    values, expected = published_values(fresh[:, :2], fresh[4]), reenacted(models, choice, text, batches)
    assert set(values) == set(expected)
    for key, value in expected.items():
        torch.testing.assert_close(values[key], value, atol=1e-5, rtol=0)
    # The defects matter: neither column is what a fresh tower gives.
    assert (values["zero"] - fresh[0]).abs().amax() > 0.05 and (values["swapped"] - fresh[4]).abs().amax() > 0.05
