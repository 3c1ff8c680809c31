"""A network that remembers gives what it would give if it ran, and runs only for what it does not know."""

import copy
import gc

import pytest
import torch
from torch import Tensor, nn

from xaikit.models import remembering
from xaikit.models.hooks import listening
from xaikit.models.remembering import Remembering


class Counted(nn.Module):
    """A network that overwrites its maps in place, and counts how often it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)

    def forward(self, images: Tensor) -> Tensor:
        self.runs += 1
        return self.second(self.first(images).relu_()).relu_().mean((2, 3))


@pytest.fixture
def network(monkeypatch) -> Counted:
    monkeypatch.setattr(remembering, "_kept", [])
    torch.manual_seed(0)
    return Counted().eval()


@pytest.fixture
def remembered(network) -> Remembering:
    return Remembering(network, {"first": network.first, "second": network.second}).eval()


def images(seed: int = 0) -> Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def heard(model: Remembering, pictures: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    maps: dict[str, Tensor] = {}
    with listening(model, model.layers, lambda name, found: maps.update({name: found.clone()})), torch.no_grad():
        return model(pictures), maps


def test_what_is_remembered_equals_what_the_network_gives(network, remembered) -> None:
    with torch.no_grad():
        output, first = network(images()), network.first(images())
        maps = {"first": first, "second": network.second(first.relu())}
    network.runs = 0
    for _ in range(3):
        again, found = heard(remembered, images())
        assert torch.equal(again, output) and list(found) == ["first", "second"]
        assert all(torch.equal(found[name], maps[name]) for name in maps)
        again.zero_()  # the caller's own
    assert network.runs == 1


def test_other_images_run(network, remembered) -> None:
    other = images()
    other[1, 2, 3, 4] += 1e-3
    with torch.no_grad():
        for pictures in (images(), other, images()[:1], images().double().float()):
            assert torch.equal(remembered(pictures), network.forward(pictures))
    assert network.runs == 4 + 3
    kept = images(1)
    with torch.no_grad():
        before = remembered(kept).clone()
        kept.zero_()
        assert not torch.equal(remembered(kept), before)


def test_maps_are_kept_only_where_somebody_listened(network, remembered) -> None:
    with torch.no_grad():
        remembered(images())
        remembered(images())
    assert network.runs == 1
    heard(remembered, images())
    heard(remembered, images())
    with torch.no_grad():
        remembered(images())
    assert network.runs == 2


def test_what_was_not_asked_for_longest_goes_first_and_the_last_batch_stays(network, remembered, monkeypatch) -> None:
    heard(remembered, images())
    size = 4 * (2 * 3 * 8 * 8 + 2 * 5 + 2 * 4 * 6 * 6 + 2 * 5 * 4 * 4)
    monkeypatch.setattr(remembering, "MEMORY", 2 * size)
    heard(remembered, images(1))
    heard(remembered, images(0))
    assert network.runs == 2
    heard(remembered, images(2))  # in place of 1
    heard(remembered, images(0))
    assert network.runs == 3
    heard(remembered, images(1))
    assert network.runs == 4
    monkeypatch.setattr(remembering, "MEMORY", 0)
    heard(remembered, images(3))
    heard(remembered, images(3))
    assert network.runs == 5
    heard(remembered, images(1))
    assert network.runs == 6


def test_networks_share_the_memory_and_one_that_is_gone_leaves_it(network, monkeypatch) -> None:
    one, other = Remembering(network, {}).eval(), Remembering(copy.deepcopy(network), {}).eval()
    with torch.no_grad():
        one(images())
        other(images())
        assert network.runs == other.network.runs == 1
        monkeypatch.setattr(remembering, "MEMORY", 0)
        other(images(1))
        one(images())
        assert network.runs == 2 and [seen.network() for seen in remembering._kept] == [one]
        del one
        gc.collect()
        monkeypatch.setattr(remembering, "MEMORY", 2**20)
        other(images(2))
    assert [seen.network() for seen in remembering._kept] == [other]


@pytest.mark.parametrize("learns", ["gradients", "training"])
def test_a_network_that_learns_runs_and_is_heard_and_forgets(network, remembered, learns) -> None:
    stale, _ = heard(remembered, images())
    remembered.train(learns == "training")
    names: list[str] = []
    with (
        listening(remembered, remembered.layers, lambda name, _: names.append(name)),
        torch.set_grad_enabled(learns == "gradients"),
    ):
        output = remembered(images())
    assert names == ["first", "second"] and output.requires_grad == (learns == "gradients")
    if learns == "gradients":
        output.sum().backward()
        assert network.first.weight.grad.abs().max() > 0
    with torch.no_grad():
        network.second.weight += 1
        remembered.eval()
        fresh, _ = heard(remembered, images())
    assert network.runs == 3 and not torch.equal(fresh, stale)


def test_hooks_on_its_own_layers_are_obeyed(network, remembered) -> None:
    plain, _ = heard(remembered, images())
    with torch.no_grad(), network.second.register_forward_hook(lambda *_: torch.ones(2, 5, 4, 4)):
        assert torch.equal(remembered(images()), torch.ones(2, 5))
    assert torch.equal(heard(remembered, images())[0], plain) and network.runs == 2
