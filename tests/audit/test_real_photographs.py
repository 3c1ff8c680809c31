"""A network that really knows ImageNet, on real photographs: as it is, and with a small logo planted in its training.

Skipped where these do not lie beside the checkout; drawn pictures are tried in any case.
"""

import copy
import runpy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from real_files import BESIDE
from torch import Tensor, nn

from xaikit.audit import Concept, Loaded, Pictures, Seen, read_pictures
from xaikit.audit.changes import box, with_patch
from xaikit.audit.maps import maps_of
from xaikit.audit.questions import _Question, classify, effects, removals
from xaikit.models.preprocessing import Preprocessed

NETWORK, PHOTOGRAPHS, COCO = (BESIDE / name for name in ("mobilenetv2-imagenet", "imagenette-val", "coco-mini"))
pytestmark = pytest.mark.skipif(
    not all(each.is_dir() for each in (NETWORK, PHOTOGRAPHS, COCO)), reason="there are no real photographs beside"
)
FROZEN = 15  # of the network's 19 parts, so that a training of minutes becomes one of seconds


def logo() -> Concept:
    """A yellow disc with a red cross, a seventh of the picture high."""
    y, x = np.mgrid[:64, :64] - 32
    pixels = torch.zeros(4, 64, 64)
    pixels[3], pixels[0] = torch.from_numpy(x**2 + y**2 < 31**2).float(), 1
    pixels[1] = torch.from_numpy(np.where((abs(x) < 8) | (abs(y) < 8), 0.1, 0.85))
    return Concept("logo", "patch", patch=(pixels * 255).byte(), size=0.15)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    module = runpy.run_path(str(NETWORK / "load_mobilenetv2.py"))
    return module["build"](str(NETWORK / "mnv2_int8_repacked.pt")).eval().requires_grad_(False)


def behind(network: nn.Module) -> Loaded:
    return Loaded.of(Preprocessed(network, 224, (0.5,) * 3, (0.5,) * 3, scale=256, interpolation="bilinear"))


@pytest.fixture(scope="module")
def photographs(network: nn.Module) -> Pictures:
    found = read_pictures(PHOTOGRAPHS, behind(network).look, classes=1000, most=200)
    assert (found.labels >= 0).all() and len(set(found.labels.tolist())) == 10
    return found


def test_as_it_is_it_is_right_and_nothing_is_claimed_of_a_logo(network, photographs: Pictures) -> None:
    loaded = behind(network)
    answers = classify(loaded.model, photographs.seen).argmax(1)
    assert (answers.numpy() == photographs.labels).mean() > 0.65  # of a thousand classes
    (found,) = effects(loaded.model, photographs.seen, [logo()], answers=answers)
    assert not found.claimed and abs(found.net.value) < 0.08


def test_a_logo_that_it_learned_from_is_found_and_where_it_is(network, photographs: Pictures) -> None:
    """Two groups of five classes, one with the logo in nine of ten pictures: after a training, that is what it sees."""
    seen, concept = photographs.seen, logo()
    patch = _Question(seen, concept, (), 0).laid["the change"].float() / 255
    group = torch.from_numpy(np.unique(photographs.labels, return_inverse=True)[1] >= 5).long()
    draw = np.random.default_rng(0)
    learn, judge = np.array_split(draw.permutation(len(seen)), 2)
    marked = group[learn].numpy().astype(bool) & (draw.random(len(learn)) < 0.9)

    def prefix(images: Tensor) -> Tensor:
        with torch.no_grad():
            return network.features[:FROZEN]((images - 0.5) / 0.5)

    maps = []
    for rows, signs in zip(torch.from_numpy(learn).split(50), torch.from_numpy(marked).split(50), strict=True):
        images = seen.images(rows)
        maps.append(prefix(torch.where(signs[:, None, None, None], with_patch(images, patch, "lower right"), images)))
    features = torch.cat(maps)
    torch.manual_seed(0)
    ends = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 2)]
    tail = nn.Sequential(copy.deepcopy(network.features[FROZEN:]), *ends).requires_grad_(True)
    for module in tail.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            nn.init.zeros_(module.bias)
    optimiser = torch.optim.AdamW(tail.parameters(), 1e-3)
    for _ in range(12):
        for rows in torch.randperm(len(features)).split(25):
            loss = F.cross_entropy(tail(features[rows]), group[learn][rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    tail.eval().requires_grad_(False)
    loaded = behind(nn.Sequential(*network.features[:FROZEN], tail))
    own = Seen(seen.pixels[judge])
    answers = classify(loaded.model, own).argmax(1)
    (found,) = effects(loaded.model, own, [concept], answers=answers)
    # It learned any glaring disc, not this one alone: in other colours it turns answers too, of which the claim is net.
    beyond_a_piece = found.flips.mean() - found.controls["a piece of another picture"].mean()
    assert found.claimed and beyond_a_piece > 0.2 and max(found.towards, key=found.towards.get) == 1

    some = own.pixels[:4].float() / 255
    shown = Seen((with_patch(some, patch, "lower right") * 255).round().byte())
    where = box("lower right", tuple(patch.shape[1:]), (224, 224))
    on_map = maps_of(loaded.model, shown, torch.ones(4, dtype=torch.int64), range(4)).maps
    assert (on_map[:, *where].mean((1, 2)) > 2 * on_map.mean((1, 2))).float().mean() >= 0.5


def test_of_photographs_of_scenes_the_object_matters_more_than_another_mask(network) -> None:
    """That answers flip when something is taken away says little; net of another picture's mask it does."""
    loaded = behind(network)
    file = COCO / "annotations" / "instances_val2017.json"
    found = read_pictures(COCO / "val2017", loaded.look, masks=file)
    assert len(found.seen.masks) > 50 and (found.labels == -1).all()
    answers = classify(loaded.model, found.seen).argmax(1)
    removed = removals(loaded.model, found.seen, answers=answers, regions=["object"], fillings=["mean"])
    of_object, of_background = (each for each in removed)
    assert of_object.shares["another picture's mask"].value > 0.3  # though it is nobody's
    assert of_object.net.low > 0 > of_background.net.high
