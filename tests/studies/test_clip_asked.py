"""Several things, one asked for: how pictures are put together, whose pixels are compared, and that texts count."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from real_files import BESIDE
from sklearn.metrics import average_precision_score, roc_auc_score

from xaikit.companion import profiles
from xaikit.companion.profiles import Settings
from xaikit.datasets.images import read_image
from xaikit.decomposition.decompose import Readout, decompose
from xaikit.decomposition.heads import heatmaps
from xaikit.saliency.vit import attention_rollout, grad_cam
from xaikit.studies import clip_asked as asked
from xaikit.studies import clip_decomposition as study
from xaikit.studies.clip_asked import Several

METHODS = ("ours", "LRP", "partial-LRP", "rollout", "raw attention", "GradCAM", "Chefer et al.")
COCO = BESIDE / "coco-mini"


@pytest.fixture(scope="module")
def model() -> study.Backbone:
    (found,) = study.backbones(profiles.load("mini", "04_clip_decomposition", 0))
    return found


@pytest.fixture(scope="module")
def drawn(model) -> list[Several]:
    settings = profiles.load("mini", "04_clip_decomposition", 0).as_dict() | {"several": 8}
    return asked.several(Settings(settings, "the tests' profile"), model, 0)


# --- pictures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [False, True])
def test_pictures_lie_beside_each_other_with_their_masks(flip: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    images, masks = torch.rand(3, 3, 16, 16, generator=draw), torch.zeros(3, 16, 16, dtype=torch.bool)
    masks[0, 2:6, 9:15] = True  # in the middle of columns 8 to 15
    masks[1, 4:8, 0:2] = True
    masks[2, 8:12, 4:8] = True
    left, right = (slice(8, 16), slice(0, 8)) if flip else (slice(0, 8), slice(8, 16))
    image, found = asked.beside(images[:2], masks[:2], flip=flip)
    assert torch.equal(image[:, :, left], images[0, :, :, 8:16]) and torch.equal(found[0, :, left], masks[0, :, 8:16])
    assert torch.equal(image[:, :, right], images[1, :, :, 0:8]) and torch.equal(found[1, :, right], masks[1, :, 0:8])
    assert not (found[0] & found[1]).any() and found[0].sum() == 24
    image, found = asked.beside(images, masks, flip=flip)
    for thing, rows in ((1, slice(0, 8)), (2, slice(8, 16))):
        small = images[thing].reshape(3, 8, 2, 8, 2).mean((2, 4))
        torch.testing.assert_close(image[:, rows, right], small)
        assert torch.equal(found[thing, rows, right], masks[thing].reshape(8, 2, 8, 2).float().mean((1, 3)) > 0.5)
    assert found[2].sum() == 4 and found.sum(0).max() == 1
    with pytest.raises(ValueError, match="There are 1 pictures of 16 pixels: give two or three"):
        asked.beside(images[:1], masks[:1])
    with pytest.raises(ValueError, match="of an even side"):
        asked.beside(images[:, :, :15, :15], masks[:, :15, :15])


def test_drawn_pictures_show_two_and_three_things_of_different_classes(drawn) -> None:
    birds, things = drawn
    assert (len(birds.prompts), len(things.prompts)) == (8, 9)
    for several in drawn:
        assert [len(own) for own in several.classes] == [2, 3, 2, 3]
        assert several.images.shape == (4, 3, 64, 64) and len(several.asked) == 10
        for own, masks in zip(several.classes, several.masks, strict=True):
            assert len(set(own)) == len(own) and masks.flatten(1).any(1).all() and masks.sum(0).max() == 1
        for (picture, thing), nowhere, other in zip(
            several.asked, several.elsewhere(), several.of_others(), strict=True
        ):
            after = several.classes[(picture + 1) % 4]
            assert nowhere not in several.classes[picture] and other == after[thing % len(after)]


def test_nothing_is_put_together_of_one_class() -> None:
    images, masks = torch.rand(6, 3, 8, 8), torch.ones(6, 8, 8, dtype=torch.bool)
    prompts = (("a dog",), ("a cat",), ("a car",))
    assert asked.put_together(images, masks, torch.zeros(6, dtype=torch.int64), prompts, 2, 0) is None
    made = asked.put_together(images, masks, torch.tensor([0, 1, 2, 0, 1, 2]), prompts, 9, 0)
    assert len(made.images) == 2 and [len(own) for own in made.classes] == [2, 3]  # and one is left
    masks[:] = False
    assert asked.put_together(images, masks, torch.arange(6) % 3, prompts, 9, 0) is None


def test_a_thing_alone_and_one_that_is_not_seen_are_refused() -> None:
    image, seen = torch.rand(1, 3, 8, 8), torch.ones(2, 8, 8, dtype=torch.bool)
    with pytest.raises(ValueError, match="give two things or more"):
        Several(image, (seen[:1],), ((0,),), (("a",),))
    with pytest.raises(ValueError, match="nothing is to be seen"):
        Several(image, (seen & torch.tensor([True, False])[:, None, None],), ((0, 1),), (("a",), ("b",)))


# --- scores -------------------------------------------------------------------------------------------------------


def test_scores_are_scikit_learns_over_the_right_pixels(drawn) -> None:
    several = drawn[0]
    maps = list(torch.randn(len(several.asked), 64, 64, generator=torch.Generator().manual_seed(0)))
    found = asked.scores(maps, several)
    for picture in range(4):
        areas, precisions = [], []
        for heat, (own, thing) in zip(maps, several.asked, strict=True):
            if own == picture:
                mask, any_thing = several.masks[own][thing].numpy(), several.masks[own].any(0).numpy()
                areas.append(roc_auc_score(mask[any_thing], heat.numpy()[any_thing]))
                precisions.append(average_precision_score(mask.ravel(), heat.numpy().ravel()))
        assert found["auc"][picture] == pytest.approx(np.mean(areas), abs=1e-9)
        assert found["ap"][picture] == pytest.approx(np.mean(precisions), abs=1e-9)
    oracle = [several.masks[picture][thing].float() for picture, thing in several.asked]
    assert all((values == 1).all() for values in asked.scores(oracle, several).values())


def test_one_map_for_all_texts_is_at_one_half_in_pictures_of_two(drawn) -> None:
    several = drawn[1]
    of_pictures = torch.randn(4, 64, 64, generator=torch.Generator().manual_seed(0))
    found = asked.scores([of_pictures[picture] for picture, _ in several.asked], several)
    np.testing.assert_allclose(found["auc"][[0, 2]], 0.5, atol=1e-12)


def test_flatness_and_lead() -> None:
    masks = torch.ones(2, 4, 4, dtype=torch.bool)
    several = Several(torch.rand(2, 3, 4, 4), (masks, masks), ((0, 1),) * 2, (("a",), ("b",), ("c",)))
    there = list(torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(0)))
    np.testing.assert_allclose(asked.flatness([each / 4 for each in there], there, several), 0.25, atol=1e-6)
    scored = {
        "ours": {"auc": np.array([0.5, 0.9, 0.7])},
        "worse": {"auc": np.array([0.1, 0.2, 0.1])},
        "best": {"auc": np.array([0.4, 0.9, 0.6])},
    }
    interval, second = asked.lead(scored, "auc", 0)
    assert second == "best" and interval.value == pytest.approx(0.2 / 3)
    assert several.there == [0, 1, 0, 1]
    parts = [{"auc": np.array([0.5])}, {"auc": np.array([0.9, 0.7])}]
    assert asked.joined({"ours": parts})["ours"]["auc"].tolist() == [0.5, 0.9, 0.7]


# --- maps ---------------------------------------------------------------------------------------------------------


def test_maps_are_those_of_each_picture_and_thing_alone(model, drawn) -> None:
    several, clip = drawn[0], model.clip
    tower, readout = clip.image_encoder, Readout.of(clip.image_encoder)
    among = model.classes(several.prompts)
    wanted = [several.classes[picture][thing] for picture, thing in several.asked]
    maps = {name: asked.baseline_maps(name, clip, several, among, wanted, 3) for name in ("rollout", "GradCAM")}
    maps["ours"] = asked.our_maps(asked.tokens_of(clip, readout, several, 3), several, among, wanted)
    for row, (picture, thing) in enumerate(several.asked):
        image = several.images[picture][None]
        direction = (among - among.mean(0))[several.classes[picture][thing]][None]
        expected = {
            "ours": heatmaps(decompose(tower, image, "token").attention, direction, (64, 64))[:, 0],
            "rollout": grown(attention_rollout(tower.model, tower.prepare(image))),
            "GradCAM": grown(grad_cam(tower.model, tower.prepare(image), clip.logit_scale * direction)),
        }
        for name, each in expected.items():
            torch.testing.assert_close(maps[name][row], each[0], rtol=1e-4, atol=1e-6)

    images = several.images[[picture for picture, _ in several.asked]]
    tokens = decompose(tower, images, "token", readout)
    found = asked.maps_of_classes(clip, tokens, images, among, torch.tensor(several.there), (64, 64))
    assert list(found) == list(asked.METHODS)
    for name, each in maps.items():
        torch.testing.assert_close(found[name], torch.stack(each), rtol=1e-4, atol=1e-6)


def grown(maps: torch.Tensor) -> torch.Tensor:
    return F.interpolate(maps[:, None], (64, 64), mode="bilinear", align_corners=False)[:, 0]


# --- photographs --------------------------------------------------------------------------------------------------


def coco_things(folder: Path, size: int, count: int) -> Several:
    """The middle of photographs with things of two or three classes that do not hide each other, by their polygons."""
    content = json.loads((folder / "annotations" / "instances_val2017.json").read_text(encoding="utf-8"))
    names = {each["id"]: each["name"] for each in content["categories"]}
    order = {id: number for number, id in enumerate(sorted(names))}
    made, found, classes = [], [], []
    for record in sorted(content["images"], key=lambda each: each["file_name"]):
        own = [a for a in content["annotations"] if a["image_id"] == record["id"] and not a["iscrowd"]]
        height, width = record["height"], record["width"]
        scale, masks = size / min(height, width), {}
        for each in own:
            mask = np.zeros((height, width), np.uint8)
            for polygon in each["segmentation"]:
                cv2.fillPoly(mask, [np.round(np.array(polygon).reshape(-1, 2)).astype(np.int32)], 1)
            shape = math.ceil(width * scale), math.ceil(height * scale)
            small = cv2.resize(mask, shape, interpolation=cv2.INTER_AREA)
            top, left = (shape[1] - size) // 2, (shape[0] - size) // 2
            masks.setdefault(each["category_id"], []).append(small[top : top + size, left : left + size] > 0)
        joined = {category: np.any(each, 0) for category, each in masks.items()}
        overlap = np.sum(list(joined.values()), 0) > 1 if joined else np.zeros((size, size), bool)
        clear = {category: mask & ~overlap for category, mask in joined.items() if (mask & ~overlap).sum() > 40}
        if len(clear) not in (2, 3):
            continue
        photograph = read_image(folder / "val2017" / record["file_name"])[None] / 255
        shape = math.ceil(height * scale), math.ceil(width * scale)
        small = F.interpolate(photograph, shape, mode="bilinear", antialias=True)[0].clamp(0, 1)
        top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
        made.append(small[:, top : top + size, left : left + size])
        found.append(torch.from_numpy(np.stack(list(clear.values()))))
        classes.append(tuple(order[category] for category in clear))
        if len(made) == count:
            break
    prompts = tuple((f"a photo of a {names[id]}",) for id in sorted(names))
    return Several(torch.stack(made), tuple(found), tuple(classes), prompts)


@pytest.mark.skipif(
    not COCO.is_dir(), reason="the checkout has no coco-mini beside it; drawn things are put together above"
)
def test_real_photographs_of_several_things_go_the_same_way(model) -> None:
    """With a CLIP that knows no photographs: that maps and scores come out for each of them, not how good they are."""
    several = coco_things(COCO, 64, 12)
    assert len(several.images) == 12 and len(several.prompts) == 80
    clip, readout = model.clip, Readout.of(model.clip.image_encoder)
    with pytest.warns(UserWarning):  # of words that the mini CLIP does not know
        among = study.class_embeddings(clip, several.prompts)
    wanted = [several.classes[picture][thing] for picture, thing in several.asked]
    tokens = asked.tokens_of(clip, readout, several, 8)
    for method in METHODS:
        if method == asked.OURS:
            maps = asked.our_maps(tokens, several, among, wanted)
        else:
            maps = asked.baseline_maps(method, clip, several, among, wanted, 8)
        scores = asked.scores(maps, several)
        assert all(((values >= 0) & (values <= 1)).all() and len(values) == 12 for values in scores.values())
        pairs = [picture for picture, own in enumerate(several.classes) if len(own) == 2]
        if method in asked.NO_TEXT and pairs:
            np.testing.assert_allclose(scores["auc"][pairs], 0.5, atol=1e-12)
