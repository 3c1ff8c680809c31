"""Looking into a model leaves it as it was, whatever happens; all that looks into models gives one clear answer."""

import copy
import re
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xaikit.decomposition import decompose
from xaikit.models.hooks import evaluating, hooked, listening
from xaikit.saliency.cam import grad_cam
from xaikit.saliency.vit import BASELINES
from xaikit.storage.paths import ROOT
from xaikit.surgery import (
    Maps,
    activation_statistics,
    choose_maps,
    convolutions,
    map_shapes,
    match_activations,
    network_surgery,
)
from xaikit.texplain import Features, classifier_grad_cam


@pytest.fixture
def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Flatten())


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("fails", [False, True])
def test_evaluating_gives_each_module_its_own_mode_back(net, fails) -> None:
    net.train()
    net[2].eval()
    before = [module.training for module in net.modules()]
    try:
        with evaluating(net):
            assert not any(module.training for module in net.modules())
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert [module.training for module in net.modules()] == before and net.training and not net[2].training


def test_evaluating_twice_restores_the_outer_mode_last(net) -> None:
    net.train()
    with evaluating(net):
        with evaluating(net[0]):
            pass
        assert not net[0].training
    assert all(module.training for module in net.modules())


def test_listening_hands_over_what_a_layer_gives_before_it_is_overwritten(net) -> None:
    images, heard = torch.randn(2, 3, 6, 6), []
    net.eval()
    raw = net[0](images)
    with listening(net, {"conv": net[0], "relu": net[1]}, lambda name, maps: heard.append((name, maps.clone()))):
        net(images)
        net(images)
    net(images)
    assert [name for name, _ in heard] == ["conv", "relu"] * 2
    assert raw.min() < 0 and torch.equal(heard[0][1], raw) and torch.equal(heard[1][1], raw.relu())
    assert hooks(net) == 0


def test_listening_does_not_change_what_the_model_gives(net) -> None:
    images = torch.randn(2, 3, 6, 6)
    net.eval()
    expected = net(images)
    with listening(net, {"conv": net[0]}, lambda name, maps: maps + 1):
        assert torch.equal(net(images), expected)


def test_what_a_hook_gives_takes_the_place_of_the_output(net) -> None:
    images = torch.randn(2, 3, 6, 6)
    net.eval()
    with hooked(net, {"conv": net[0]}, lambda name, inputs, output: inputs[0].new_ones(output.shape)):
        assert net(images).unique().tolist() == [1]


def test_hooks_go_after_an_exception(net) -> None:
    def receive(name: str, maps: Tensor) -> None:
        assert hooks(net) > 2
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), listening(net, {"conv": net[0], "relu": net[1]}, receive):
        net(torch.randn(1, 3, 6, 6))
    assert hooks(net) == 0


def test_hooks_go_where_a_later_layer_cannot_be_hooked(net) -> None:
    with pytest.raises(AttributeError), listening(net, {"conv": net[0], "none": None}, print):
        pass
    assert hooks(net) == 0


def test_an_output_that_is_no_map_is_named(net) -> None:
    sentence = "output of flat is not made of activation maps"
    with pytest.raises(ValueError, match=sentence), listening(net, {"flat": net[3]}, lambda name, maps: None):
        net(torch.randn(1, 3, 6, 6))
    assert hooks(net) == 0


def test_a_model_may_be_its_own_layer() -> None:
    conv, heard = nn.Conv2d(3, 4, 3), []
    with listening(conv, {"": conv}, lambda name, maps: heard.append(maps.shape)):
        conv(torch.rand(2, 3, 6, 6))
    assert heard == [(2, 4, 4, 4)]


def test_a_pass_that_failed_does_not_count(net) -> None:
    heard = []
    with listening(net, {"conv": net[0]}, lambda name, maps: heard.append(maps.shape)):
        with pytest.raises(RuntimeError):
            net(torch.rand(1, 2, 6, 6))
        with pytest.raises(ValueError, match="'conv' runs outside of a pass of the Sequential"):
            net[0](torch.rand(1, 3, 6, 6))
        net(torch.rand(1, 3, 6, 6))
    assert heard == [(1, 4, 4, 4)] and hooks(net) == 0


def test_hooks_are_set_in_one_place_only() -> None:
    where = {
        file.relative_to(ROOT / "xaikit").as_posix()
        for file in (ROOT / "xaikit").rglob("*.py")
        if "register_forward_hook(" in file.read_text(encoding="utf-8")
    }
    assert where == {"models/hooks.py"}


# --- one clear answer everywhere --------------------------------------------------------------------------------------

IMAGES = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Looked(nn.Module):
    """A classifier whose convolution and tokens are looked at; each runs `times` in a pass."""

    def __init__(self, times: int = 1, run: Callable[..., Tensor] = lambda layer, x: layer(x)) -> None:
        super().__init__()
        self.conv, self.tokens, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 4), nn.Linear(4, 2)
        self.times, self.run = times, run

    def forward(self, x: Tensor) -> Tensor:
        maps = sum(
            (self.run(self.conv, x * (n + 1)) for n in range(self.times)), F.avg_pool2d(x[:, [0, 1, 2, 0]], 3, 1)
        )
        tokens = maps.flatten(2).mT
        tokens = sum((self.run(self.tokens, tokens.tanh() * (n + 1)) for n in range(self.times)), tokens)
        return self.head((tokens * tokens).mean(1))


def other() -> Looked:
    torch.manual_seed(1)
    return Looked().eval().requires_grad_(False)


def conv_of(model: nn.Module) -> nn.Module:
    return next(module for name, module in model.named_modules() if name.endswith("conv"))


def maps_of(model: nn.Module) -> Maps:
    return Maps(model, {"conv": conv_of(model)})


def statistics_of(model: nn.Module, images: Tensor) -> Tensor:
    return activation_statistics(maps_of(model), [images]).mean


def matched(model: nn.Module, images: Tensor) -> Tensor:
    own, others = (activation_statistics(maps_of(each), [IMAGES]) for each in (other(), other()))
    return match_activations(maps_of(model), own, maps_of(other().to(images.dtype)), others, [images])


def operated(model: nn.Module, images: Tensor) -> Tensor:
    source = maps_of(other().to(images.dtype))
    own = activation_statistics(maps_of(other()), [IMAGES])
    choice = choose_maps(torch.eye(4).roll(1, 0))
    with torch.no_grad(), network_surgery(maps_of(model), own, source, own, choice):
        return model(images)


def features_of(model: nn.Module, images: Tensor) -> Tensor:
    name = next(name for name, module in model.named_modules() if name.endswith("conv"))
    return Features(model, name)(images).detach()


LOOKS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "shapes": lambda model, images: torch.tensor([*map_shapes(maps_of(model), images).values()]),
    "statistics": statistics_of,
    "matching": matched,
    "surgery": operated,
    "grad_cam": lambda model, images: grad_cam(model, conv_of(model), images, torch.zeros(4, dtype=torch.int64)),
    "classifier_grad_cam": lambda model, images: classifier_grad_cam(
        model, "module.tokens" if isinstance(model, nn.DataParallel) else "tokens", images, grid=(10, 10)
    ),
    "features": features_of,
}


@pytest.fixture
def looked() -> Looked:
    torch.manual_seed(0)
    return Looked().eval()


def answer(look: str, model: nn.Module, images: Tensor = IMAGES) -> Tensor | str:
    """What is found, or the sentence that says why not; no hook stays."""
    try:
        found = LOOKS[look](model, images)
        assert found.isfinite().all()
    except ValueError as error:
        found = str(error)
    assert hooks(model) == 0 and not any(module._forward_hooks for module in model.modules())
    return found


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("times", [0, 2])
def test_layers_that_do_not_run_once_are_named_everywhere(look, times) -> None:
    assert re.search(f"is used {times} times a pass of the Looked: take layers", answer(look, Looked(times).eval()))


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_give_the_same_up_to_rounding_everywhere(look, dtype, looked) -> None:
    expected, found = answer(look, looked), answer(look, copy.deepcopy(looked).to(dtype), IMAGES.to(dtype))
    assert torch.promote_types(found.dtype, torch.float32) == found.dtype or look in ("surgery", "shapes")
    tolerance = 1e-5 if dtype == torch.float64 else 0.05
    torch.testing.assert_close(
        found.float(), expected.float(), atol=tolerance * expected.float().abs().max().item(), rtol=0
    )


@pytest.mark.parametrize("look", LOOKS)
def test_autocast_changes_no_more_than_the_models_own_rounding(look, looked) -> None:
    expected = answer(look, looked).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = answer(look, looked)
    torch.testing.assert_close(found.float(), expected, atol=0.05 * expected.abs().max().item(), rtol=0)
    assert look in ("surgery", "shapes") or found.dtype == torch.float32


@pytest.mark.parametrize("look", LOOKS)
def test_inference_mode_changes_nothing(look, looked) -> None:
    expected, images = answer(look, looked), IMAGES
    with torch.inference_mode():
        images = IMAGES.clone()  # such a tensor is of no use to autograd
        found = answer(look, looked, images)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("look", ["statistics", "matching", "grad_cam", "classifier_grad_cam"])
def test_what_was_found_in_inference_mode_can_be_used_with_gradients(look, looked) -> None:
    with torch.inference_mode():
        found = answer(look, looked)
    scale = torch.ones_like(found, requires_grad=True)
    (scale * found).sum().backward()
    assert torch.equal(scale.grad, found)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("look", LOOKS)
def test_checkpoints_change_nothing_or_are_named(look, looked) -> None:
    expected = answer(look, looked)
    for reentrant in (False, True):
        again = Looked(run=lambda layer, x, r=reentrant: checkpoint(layer, x, use_reentrant=r)).eval()
        again.load_state_dict(looked.state_dict())
        found = answer(look, again)
        if isinstance(found, str):
            assert "grad_cam" in look and re.search("without gradients|outside of a pass", found)
        else:
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("look", LOOKS)
def test_parallel_models_give_the_same_and_several_devices_are_refused(look, looked, monkeypatch) -> None:
    parallel = nn.DataParallel(looked)
    torch.testing.assert_close(answer(look, parallel), answer(look, looked))
    monkeypatch.setattr(parallel, "device_ids", [0, 1])
    assert "give the model in it" in answer(look, parallel)


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("part", [False, True])
def test_compiled_models_are_refused_everywhere(look, part, looked) -> None:
    if part:
        looked.head.compile(backend="eager")
        assert "Linear is compiled" in answer(look, looked)
    else:
        assert "OptimizedModule is compiled" in answer(look, torch.compile(looked, backend="eager"))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_scripted_models_are_refused_everywhere() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(400, 2)).eval()
    scripted, traced = torch.jit.script(net), torch.jit.trace(net, IMAGES)
    for model in (scripted, traced, nn.Sequential(net, nn.Identity(), traced)):
        for look in (
            convolutions,
            lambda model: Features(model, "0")(IMAGES),
            lambda model: grad_cam(model, next(model.children()), IMAGES),
            lambda model: map_shapes(Maps(model, {"0": next(model.children())}), IMAGES),
        ):
            with pytest.raises(ValueError, match="is scripted, and hooks in it are not heard"):
                look(model)


@pytest.mark.parametrize("look", LOOKS)
def test_hooks_go_after_an_error_in_the_model_everywhere(look, looked) -> None:
    looked.head.forward = lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError):
        LOOKS[look](looked, IMAGES)
    assert hooks(looked) == 0


def test_weights_made_in_inference_mode_are_named_where_gradients_are_wanted() -> None:
    with torch.inference_mode():
        model = Looked().eval()
    for look in ("grad_cam", "classifier_grad_cam"):
        assert "weights of the Looked were made in inference mode" in answer(look, model)


@pytest.fixture(scope="module")
def tower() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(12, 4, 32, 2, 4, 4.0, output_dim=8).eval()


@pytest.mark.parametrize("inside", [lambda: torch.autocast("cpu", torch.bfloat16), torch.inference_mode, nullcontext])
@pytest.mark.parametrize("baseline", [*BASELINES, "decompose"])
def test_towers_are_explained_alike_under_autocast_and_in_inference_mode(baseline, inside, tower) -> None:
    directions = F.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(1)), dim=1)

    def explain(images: Tensor, directions: Tensor) -> Tensor:
        if baseline == "decompose":
            return decompose(tower, images).attention
        return BASELINES[baseline](tower, images, directions)

    expected = explain(IMAGES, directions)
    with inside():
        found = explain(IMAGES.clone(), directions.clone())
        # The tower itself runs in bfloat16 where it is heard; all that is computed from it does not.
        rounding = 0.02 if baseline == "decompose" else 1e-5
        torch.testing.assert_close(found, expected, atol=rounding * expected.abs().max().item(), rtol=1e-4)
    assert hooks(tower) == 0
