"""A ResNet-50 trains the same way twice, keeps its curves, and says what it cannot train on."""

import dataclasses
import errno

import pytest
import torch
import torchvision
from rounding import clear_winners
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from xaikit.models import classifiers
from xaikit.models.classifiers import Recipe, Trained, build, predict, train, train_all
from xaikit.models.preprocessing import Preprocessed
from xaikit.storage import cache

RECIPE = Recipe(pixels=16, epochs=1, measurements=1, batch=8, learning_rate=1e-3)


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    """Red and green noise."""
    labels = torch.arange(17) % 2
    images = torch.rand(17, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return images * torch.eye(3)[labels][:, :, None, None], labels


@pytest.fixture(scope="module")
def trained(data) -> Trained:
    return train(RECIPE, *data, {"all": data, "first": (data[0][:1], data[1][:1])}, seed=0)


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(
        torch.equal(value, other_value)
        for value, other_value in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_the_same_seed_gives_the_same_weights_and_another_does_not(trained, data) -> None:
    torch.rand(5)  # the global random state is not where the weights come from
    again = train(RECIPE, *data, {}, seed=0)
    assert same(trained.model, again.model)
    assert not same(trained.model, train(RECIPE, *data, {}, seed=1).model)


def test_a_recipe_that_differs_gives_other_weights(trained, data) -> None:
    for change in ({"schedule": "one-cycle"}, {"weight_decay": 0.5}):
        other = train(dataclasses.replace(RECIPE, **change), *data, {}, seed=0)
        assert not same(trained.model, other.model)


def test_the_curves_measure_every_set(trained, data) -> None:
    assert [(row["set"], row["epoch"]) for row in trained.curves] == [("train", 1), ("all", 1), ("first", 1)]
    accuracy = {row["set"]: row["accuracy"] for row in trained.curves}
    for name, (images, labels) in {"all": data, "first": (data[0][:1], data[1][:1])}.items():
        assert accuracy[name] == (predict(trained.model, images) == labels).double().mean().item()
    assert accuracy["train"] * 17 == pytest.approx(round(accuracy["train"] * 17))  # every image counts, once


def test_training_moves_weights_and_running_averages_and_ends_in_evaluation_mode(trained) -> None:
    torch.manual_seed(0)
    fresh = build(RECIPE)
    now = trained.model.state_dict()
    moved = [key for key, value in fresh.state_dict().items() if not torch.equal(value, now[key])]
    assert any("running_var" in key for key in moved) and any("fc.weight" in key for key in moved)
    assert not any(module.training for module in trained.model.modules())
    assert trained.model.model.bn1.num_batches_tracked == 3  # 17 images in batches of at most 8, none of one image


@pytest.fixture
def tiny(monkeypatch) -> None:
    """A linear classifier in the place of ResNet-50."""

    def build(recipe: Recipe, *, pretrained: bool = True) -> Preprocessed:
        model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(768, 2))
        return Preprocessed(model, recipe.pixels, (0.5,) * 3, (0.5,) * 3)

    monkeypatch.setattr(classifiers, "build", build)


@pytest.mark.usefixtures("tiny")
def test_measurements_are_spread_over_the_steps(data) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=4, measurements=6, learning_rate=1e-2)  # 4 · 3 steps
    result = train(recipe, *data, {"all": data}, seed=0)
    epochs = [row["epoch"] for row in result.curves if row["set"] == "all"]
    assert epochs == pytest.approx([step / 3 for step in (2, 4, 6, 8, 10, 12)])
    assert [row["set"] for row in result.curves] == ["train", "all"] * 6
    assert result.curves[-1]["accuracy"] == 1.0  # colour is easy


def test_precise_batch_norm_averages_over_all_training_images(data) -> None:
    """The first norm's mean is that of the first convolution's output; the weights are what they were."""
    recipe = dataclasses.replace(RECIPE, measurements=2, precise_batch_norm=True)
    precise, running = (train(each, *data, {"all": data}, seed=0).model for each in (recipe, RECIPE))
    with torch.no_grad():
        output = precise.model.conv1(precise.prepare(data[0]))
    torch.testing.assert_close(precise.model.bn1.running_mean, output.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(running.model.bn1.running_mean, precise.model.bn1.running_mean, atol=1e-3)
    assert torch.equal(precise.model.conv1.weight, running.model.conv1.weight)
    assert not precise.training and precise.model.bn1.momentum == 0.1


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("schedule", ["constant", "one-cycle"])
@pytest.mark.parametrize("killed_in", [2, 4, 8, 11])
def test_a_killed_training_goes_on_between_epochs_and_ends_as_it_would_have(
    data, monkeypatch, tmp_path, schedule: str, killed_in: int
) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=4, measurements=5, schedule=schedule, weight_decay=0.1)
    watched, checkpoint = {"all": data}, tmp_path / "some.checkpoint"
    whole = train(recipe, *data, watched, seed=0)
    monkeypatch.setattr(classifiers, "SAVE_EVERY", 0.0)
    steps: list[int] = []
    loss = classifiers.F.cross_entropy

    def counted(logits: Tensor, target: Tensor) -> Tensor:
        steps.append(len(target))
        if killed_in == len(steps):
            raise KeyboardInterrupt
        return loss(logits, target)

    monkeypatch.setattr(classifiers.F, "cross_entropy", counted)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, *data, watched, seed=0, checkpoint=checkpoint)
    done = (killed_in - 1) // 3 * 3  # 3 steps an epoch
    assert checkpoint.exists() == (done > 0)
    steps.clear()
    killed_in = -1
    again = train(recipe, *data, watched, seed=0, checkpoint=checkpoint)
    assert len(steps) == 12 - done
    assert same(again.model, whole.model) and again.curves == whole.curves


@pytest.mark.usefixtures("tiny")
def test_a_damaged_checkpoint_counts_as_none(data, tmp_path) -> None:
    checkpoint = tmp_path / "some.checkpoint"
    checkpoint.write_bytes(b"broken off")
    with pytest.warns(UserWarning, match="is damaged and is computed anew"):
        again = train(RECIPE, *data, {}, seed=0, checkpoint=checkpoint)
    assert same(again.model, train(RECIPE, *data, {}, seed=0).model)


@pytest.mark.usefixtures("tiny")
def test_a_full_disk_stops_no_training(data, monkeypatch, tmp_path) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=2)
    whole = train(recipe, *data, {}, seed=0)
    monkeypatch.setattr(classifiers, "SAVE_EVERY", 0.0)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "save_file", refuse)
    with pytest.warns(UserWarning, match="the training so far cannot be kept and will be computed again: .*No space"):
        trained = train(recipe, *data, {}, seed=0, checkpoint=tmp_path / "some.checkpoint")
    assert same(trained.model, whole.model) and not list(tmp_path.glob("*.checkpoint"))


@pytest.mark.usefixtures("tiny")
def test_a_cached_training_is_read_back_as_it_was(data, monkeypatch) -> None:
    watched = {"all": data, "first": (data[0][:1], data[1][:1])}
    job = {"recipe": RECIPE, "images": data[0], "labels": data[1], "watched": watched, "seed": 0}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as every training has one
    trained = train(**job)
    torch.set_num_threads(threads)
    first = train_all({"one": job})["one"]
    monkeypatch.setattr(classifiers, "train", None)  # a second training would fail
    second = train_all({"one": job})["one"]
    for result in (first, second):
        assert same(result.model, trained.model) and result.curves == trained.curves
        assert not any(module.training for module in result.model.modules())
        assert not any(parameter.requires_grad for parameter in result.model.parameters())
    with pytest.raises(TypeError, match="other: 'NoneType'"):
        train_all({"other": {**job, "seed": 1}})


def test_predict_gives_the_highest_class_whatever_the_batches(trained, data) -> None:
    images = data[0]
    with torch.no_grad():
        logits = torch.cat([trained.model(image[None]) for image in images])
    clear, model = clear_winners(logits), trained.model.train()
    assert clear.sum() > 12
    for batch in (4, 200):
        assert torch.equal(predict(model, images, batch)[clear], logits.argmax(1)[clear])
    assert all(module.training for module in model.modules())
    model.eval()


def test_predict_needs_an_image(trained, data) -> None:
    with pytest.raises(ValueError, match="images of predict"):
        predict(trained.model, data[0][:0])


def test_training_needs_images_and_a_known_recipe(data) -> None:
    images, labels = data
    for few in (0, 1):
        with pytest.raises(ValueError, match=f"There are {few} images to train on"):
            train(RECIPE, images[:few], labels[:few], {}, seed=0)
    with pytest.raises(ValueError, match="Unknown schedule 'cosine'; choose 'constant' or 'one-cycle'"):
        train(dataclasses.replace(RECIPE, schedule="cosine"), images, labels, {}, seed=0)
    with pytest.raises(ValueError, match="resnet50 has no weights 'IMAGENET21K'"):
        build(dataclasses.replace(RECIPE, pretrained="IMAGENET21K"))


def test_a_loss_that_is_not_finite_stops_the_training(data) -> None:
    with pytest.raises(ValueError, match=r"The loss is (nan|inf) in step 2; lower the learning rate"):
        train(dataclasses.replace(RECIPE, learning_rate=1e30), *data, {}, seed=0)


def test_build_follows_the_recipe(monkeypatch) -> None:
    model = build(RECIPE, classes=7)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 53
    assert model(torch.rand(2, 3, 28, 28)).shape == (2, 7) and model.size == 16
    assert (model.model.layer1[0].bn3.weight == 0).all()
    assert not model.grey and build(dataclasses.replace(RECIPE, grey=True)).grey

    asked = []
    kept = torchvision.models.resnet50().state_dict()

    def get_state_dict(weights: WeightsEnum, *, weights_only: bool, **_options: bool) -> dict[str, Tensor]:
        asked.append((weights.name, weights_only))
        return kept

    monkeypatch.setattr(WeightsEnum, "get_state_dict", get_state_dict)
    recipe = dataclasses.replace(RECIPE, pretrained="IMAGENET1K_V2")
    body = build(recipe).model
    assert all(torch.equal(body.state_dict()[name], kept[name]) for name in kept if name[:3] != "fc.")
    assert not torch.equal(build(recipe, pretrained=False).model.conv1.weight, kept["conv1.weight"])
    assert asked == [("IMAGENET1K_V2", True)]
