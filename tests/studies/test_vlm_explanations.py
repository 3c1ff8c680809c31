"""What notebook 03 puts together: settings, maps, areas relative to chance, causes, the pictures of both profiles."""

import dataclasses
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from rounding import clear_winners

from xaikit.companion import profiles
from xaikit.companion.profiles import Settings
from xaikit.datasets.class_folders import read_class_folders
from xaikit.datasets.idenprof import PROFESSIONS, read_professions
from xaikit.models.clip import Clip, load_from
from xaikit.models.hooks import evaluating
from xaikit.perturbation.faces import read_boxes, write_boxes
from xaikit.perturbation.linear_probe import LinearProbe, embed
from xaikit.perturbation.search import AGARWAL_2023
from xaikit.storage import paths
from xaikit.storage.seeding import seed_for
from xaikit.studies import vlm_explanations as study
from xaikit.studies import vlm_pictures as pictures
from xaikit.studies import vlm_planted as planted
from xaikit.studies.clip_pictures import Prepared
from xaikit.world import SceneSet
from xaikit.world.scene_people import USUAL

NAME = "03_vlm_explanations"


@pytest.fixture(scope="module")
def cfg() -> Settings:
    """The mini profile with fewer pictures."""
    fewer = {"train": {"cars": 64, "occupation": 80}, "test": {"cars": 32, "occupation": 40}, "epochs": 40}
    fewer |= {"rise_masks": 8, "ig_steps": 4, "portraits": 6}
    return Settings(profiles.load("mini", NAME, 0).as_dict() | fewer, "the tests' profile")


@pytest.fixture(scope="module")
def clip(cfg) -> Clip:
    return load_from(cfg.clip)


@pytest.fixture(scope="module")
def cars(cfg) -> tuple[pictures.Classified, pictures.Classified]:
    return pictures.task("cars", cfg, 0, "train"), pictures.task("cars", cfg, 0, "test")


@pytest.fixture(scope="module")
def settings(clip, cars, cfg) -> tuple[study.Setting, study.Setting]:
    return study.settings(clip, cars[0], device="cpu", seed=0, epochs=cfg.epochs)


def test_both_profiles_have_what_the_notebook_reads() -> None:
    mini, paper = (profiles.load(name, NAME, 0) for name in ("mini", "paper"))
    assert set(mini) - set(paper) == {"train", "test", "grain", "attacked"}
    assert set(paper) - set(mini) == {"folders", "time_limit"}


# --- pictures -----------------------------------------------------------------------------------------------------


def test_cars_never_lie_and_classes_are_makes_and_models(cars) -> None:
    for data in cars:
        assert len(data.names) == 16 and data.prompts[0] == "a photo of a vega sedan"
        for scene, label in zip(data.scenes, data.labels.tolist(), strict=True):
            assert data.names[label] == f"{scene.make} {scene.model}" and scene.text in (None, scene.make)
        assert len(pictures.with_text(data)) == len(data) // 2


def test_people_look_as_is_usual_in_training_and_evenly_in_the_test(cfg) -> None:
    train, test = (pictures.task("occupation", cfg, 0, split) for split in ("train", "test"))
    for data, share in ((train, 0.9), (test, 0.5)):
        usual = [scene.presentation == USUAL[scene.profession] for scene in data.scenes]
        assert np.mean(usual) == pytest.approx(share, abs=0.13)
        assert [data.names[label] for label in data.labels.tolist()] == [scene.profession for scene in data.scenes]


def test_causes_change_their_part_and_nothing_else(cfg) -> None:
    test = {name: pictures.task(name, cfg, 0, "test") for name in pictures.TASKS}
    found = {(cause.task, cause.part): cause for cause in pictures.causes(test, cfg.size)}
    assert len(found) == 9
    for (task, part), cause in found.items():
        assert len(cause.region) == len(test[task])
        before = test[task].scenes[cause.chosen]
        changed = [
            {name for name, value in a.factors.items() if value != b.factors[name]}
            for a, b in zip(before, cause.after.scenes, strict=True)
        ]
        assert all(names for names in changed), part  # each picture is changed
        assert all(names - {"place"} == changed[0] - {"place"} and len(names - {"place"}) == 1 for names in changed)
        assert cause.after.images.shape == before.images().shape
        assert (cause.after.images != before.images()).flatten(1).any(1).all()
    assert len(found["cars", "text"].chosen) == len(test["cars"]) // 2


def test_portraits_of_drawn_people_have_a_patch_where_their_face_was(cfg) -> None:
    people = pictures.portraits(pictures.task("occupation", cfg, 0, "test"), cfg, 0)
    assert len(people) == 40 and people.presentations == ("long hair", "short hair")
    area = people.faces.double().mean((1, 2))
    assert area.min() > 0.005 and area.max() < 0.2
    outside = (people.original != people.masked).any(1) & ~people.faces
    assert outside.double().mean() < 0.01  # edges of the patch between two pixels
    inside = people.masked.amax(1)[people.faces]
    assert inside.median() == 0
    chosen = people.select(torch.tensor([3, 1]))
    assert torch.equal(chosen.labels, people.labels[[3, 1]]) and torch.equal(chosen.faces[1], people.faces[1])


def test_portraits_of_photographs_come_from_boxes_in_a_file(tmp_path, cfg) -> None:
    draw = np.random.default_rng(0)
    for name in PROFESSIONS:
        folder = tmp_path / "test" / name
        folder.mkdir(parents=True)
        for i in range(2):
            Image.fromarray(draw.integers(1, 256, (100, 150, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    found = read_professions(tmp_path, "test")
    boxes = {id: [(60.0, 20.0, 90.0, 70.0)] for id in found.ids[:8]}
    boxes |= {found.ids[8]: [(0, 0, 9, 9), (40, 0, 50, 9)], found.ids[9]: [], found.ids[10]: [(0.0, 0.0, 20.0, 20.0)]}
    write_boxes(tmp_path / "faces.json", boxes)
    data = pictures.Classified(Prepared(found, 50), found.labels, found.names, found.names)
    people = pictures.portraits(data, Settings(cfg.as_dict() | {"size": 50, "portraits": 6}, "photographs"), 0)
    assert len(people) == 6 and (people.presentation == -1).all() and people.presentations == ()
    # Half the size; 12.5 of the 75 columns are cut off on either side: x from 30 − 12 to 45 − 12, y from 10 to 35.
    expected = torch.zeros(50, 50, dtype=torch.bool)
    expected[10:35, 18:33] = True
    assert all(torch.equal(face, expected) for face in people.faces)
    assert (people.masked[:, :, 12:30, 20:30] == 0).all()
    assert torch.equal(people.masked[:, :, :9], people.original[:, :, :9])


def test_a_damaged_photograph_is_left_out_by_name_before_a_run_has_begun(tmp_path, cfg, monkeypatch) -> None:
    monkeypatch.setattr(pictures, "DATASETS", tmp_path)
    for name in PROFESSIONS:
        (folder := tmp_path / "idenprof" / "test" / name).mkdir(parents=True)
        Image.new("RGB", (60, 50)).save(folder / "1.png")
    whole = (tmp_path / "idenprof" / "test" / "judge" / "1.png").read_bytes()
    (tmp_path / "idenprof" / "test" / "judge" / "2.png").write_bytes(whole[: len(whole) // 2])
    own = Settings(cfg.as_dict() | {"data": "photographs", "size": 50, "folders": {"occupation": "idenprof"}}, "photos")
    with pytest.warns(UserWarning, match=r"1 files .* not read: they cannot be: .*judge/2\.png"):
        data = pictures.task("occupation", own, 0, "test")
    assert len(data) == 10 and data.images[9].shape == (3, 50, 50)
    assert "judge/2.png" in data.images.photographs.intake.report()


def fake_easyocr(monkeypatch: pytest.MonkeyPatch, asked: list[tuple[int, ...]]) -> None:
    """An easyocr that finds an upright box, a slanted one and one outside in every photograph."""

    class Reader:
        def __init__(self, languages: list[str], **options: object) -> None:
            assert languages == ["en"] and options == {"gpu": False, "recognizer": False, "verbose": False}

        def detect(self, photograph: np.ndarray) -> tuple:
            asked.append(photograph.shape)
            return [[[20, 60, 10, 30], [-9, -1, 0, 5]]], [[[[100, 50], [120, 44], [122, 60], [102, 66]]]]

    module = ModuleType("easyocr")
    module.Reader = Reader
    monkeypatch.setitem(sys.modules, "easyocr", module)


def test_text_in_photographs_comes_from_a_file_or_a_detector_or_is_not_known(tmp_path, cfg, monkeypatch) -> None:
    folder = tmp_path / "cars_test"
    for label in "ab":
        (folder / label).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.zeros((100, 150, 3), np.uint8)).save(folder / label / f"{i}.png")
    found = read_class_folders(folder, exif=False)
    cfg = Settings(cfg.as_dict() | {"size": 50, "device": "cpu"}, "photographs")
    data = pictures.Classified(Prepared(found, 50), found.labels, found.names, found.names)
    positions = torch.tensor([1, 4, 5])
    monkeypatch.setitem(sys.modules, "easyocr", None)
    nowhere, reason = pictures.text_regions(data, positions, cfg)
    assert reason == "texts.json lists 0 of 3 pictures, and easyocr is missing: pip install easyocr"
    assert not nowhere.any() and not (tmp_path / "texts.json").exists()
    write_boxes(
        tmp_path / "texts.json", {found.ids[4]: [(60.0, 20.0, 90.0, 70.0), (0.0, 0.0, 10.0, 10.0)], found.ids[5]: []}
    )
    listed, reason = pictures.text_regions(data, positions, cfg)
    assert reason == "texts.json lists 2 of 3 pictures, and easyocr is missing: pip install easyocr"
    expected = torch.zeros(3, 50, 50, dtype=torch.bool)
    expected[1, 10:35, 18:33] = True  # as faces are: half the size, 12.5 columns cut off; the second box is there
    assert torch.equal(listed, expected)
    asked: list[tuple[int, ...]] = []
    fake_easyocr(monkeypatch, asked)
    for _ in range(2):  # the second time the file knows it
        detected, reason = pictures.text_regions(data, positions, cfg)
        assert reason is None and asked == [(100, 150, 3)] and torch.equal(detected[1:], expected[1:])
        assert detected[0, 5:15, :17].all() and detected[0, 22:33, 38:48].all()
    assert read_boxes(tmp_path / "texts.json")[found.ids[1]] == [(20, 10, 60, 30), (100, 44, 122, 66)]


def test_text_on_drawn_cars_is_where_it_was_drawn(cfg) -> None:
    data = pictures.task("cars", cfg, 0, "test")
    positions = torch.tensor([0, 2, 3])
    found, reason = pictures.text_regions(data, positions, cfg)
    assert reason is None and torch.equal(found, pictures.regions(data, "text", cfg.size)[positions])


@pytest.mark.parametrize("size", [(100, 150), (150, 100), (64, 64), (333, 500)])
def test_boxes_move_with_the_pixels(size) -> None:
    picture = torch.zeros(1, 3, *size)
    top, left = size[0] // 3, size[1] // 3
    picture[:, :, top : top + 24, left : left + 30] = 1.0
    side = 48
    seen = Prepared([], side).crop(picture)[0, 0] > 0.5
    x0, y0, x1, y1 = pictures.cropped((left, top, left + 30, top + 24), size, side)
    rows, columns = seen.any(1).nonzero()[:, 0], seen.any(0).nonzero()[:, 0]
    assert abs(x0 - columns.min()) <= 1 and abs(x1 - columns.max() - 1) <= 1
    assert abs(y0 - rows.min()) <= 1 and abs(y1 - rows.max() - 1) <= 1
    assert pictures.cropped((0, 0, 0.1, size[0]), size, side) is None


# --- settings and maps --------------------------------------------------------------------------------------------


def test_the_settings_differ_in_their_scores_and_share_an_encoder(settings, cars) -> None:
    zero_shot, fine_tuned = settings
    assert zero_shot.model.encoder is fine_tuned.model.encoder
    test = cars[1]
    with torch.inference_mode():
        cosines, logits = zero_shot.model(test.images), fine_tuned.model(test.images)
    rows = torch.arange(len(test))
    for setting, published, expected in (
        (zero_shot, True, cosines),
        (zero_shot, False, (cosines * zero_shot.scale).softmax(1)),
        (fine_tuned, True, logits.softmax(1)),
        (fine_tuned, False, logits.softmax(1)),
    ):
        found = setting.score(test.labels, published=published)(test.images, rows)
        torch.testing.assert_close(found, expected[rows, test.labels], rtol=0, atol=1e-5)
        clear = clear_winners(expected)
        answers = setting.answers(embed(setting.model.encoder, test.batches(7)))
        assert clear.sum() > 24 and torch.equal(answers[clear], expected.argmax(1)[clear])
    assert zero_shot.scale > 5 and fine_tuned.scale == 1


def test_only_what_all_get_right_is_explained() -> None:
    labels = torch.tensor([0, 1, 2, 3])
    first, second = torch.tensor([0, 1, 0, 3]), torch.tensor([0, 0, 2, 3])
    assert study.right_in_all([first, second], labels, 5, 0).tolist() == [0, 3]
    assert {study.right_in_all([first, second], labels, 1, seed).item() for seed in range(20)} == {0, 3}
    nobody, one = [labels, (labels + 1) % 4], [labels, torch.tensor([0, 0, 0, 0])]
    for given in (nobody, one):
        with pytest.raises(ValueError, match=r"^[01] of 4 images are classified correctly in all settings, too few"):
            study.right_in_all(given, labels, 5, 0)
    assert study.right_in_all(nobody, labels, 5, 0, rehearsing=True).tolist() == [0, 1, 2, 3]


def test_of_many_right_ones_every_class_is_explained() -> None:
    """Folders come class by class: the first hundred would be of two classes."""
    labels = torch.arange(10).repeat_interleave(50)
    chosen = study.right_in_all([labels, labels], labels, 100, 0)
    assert labels[chosen].bincount().tolist() == [10] * 10 and torch.equal(chosen, chosen.sort().values)
    assert not torch.equal(chosen, study.right_in_all([labels, labels], labels, 100, 1))


def test_maps_come_from_the_cache_and_depend_on_the_score(settings, cars) -> None:
    zero_shot, _ = settings
    images, targets = cars[1].stack(range(3)), cars[1].labels[:3]
    recipe = dataclasses.replace(AGARWAL_2023.at(64), steps=6)
    options = {"seed": 0, "batch": 4}
    cosine = study.maps(zero_shot.model, images, targets, recipe, softmax=None, **options)
    again = study.maps(zero_shot.model, images, targets, recipe, softmax=None, **options)
    softmax = study.maps(zero_shot.model, images, targets, recipe, softmax=zero_shot.scale, **options)
    assert torch.equal(cosine.maps, again.maps) and not torch.equal(cosine.maps, softmax.maps)
    assert len(list(paths.CACHE.rglob("*.safetensors"))) == 2
    assert cosine.maps.shape == (3, 64, 64) and cosine.maps.min() >= 0 and cosine.maps.max() <= 1
    assert cosine.size == pytest.approx(cosine.maps.mean((1, 2)).numpy()) and not cosine.saturated.any()


def test_in_parts_images_are_what_they_are_together(settings, cars, monkeypatch) -> None:
    images, targets = cars[1].stack(range(7)), cars[1].labels[:7]
    recipe = dataclasses.replace(AGARWAL_2023.at(64), steps=3, start="uniform")
    given = settings[0].model, images, targets, recipe
    together, apart = (study.maps(*given, softmax=None, seed=3, batch=batch) for batch in (7, 2))
    torch.testing.assert_close(apart.masks, together.masks, rtol=0, atol=2e-3)  # batches differ in their last digits
    torch.testing.assert_close(apart.checks.loss, together.checks.loss, rtol=1e-3, atol=1e-5)
    no_ties = torch.rand(7, 64, 64, generator=torch.Generator().manual_seed(0))
    options = {"mean": (0.45,) * 3, "step": 1024, "seed": 0, "ties": 1, "fill": "blur"}
    found = []
    for together in (20, 2):
        monkeypatch.setattr(study, "TOGETHER", together)
        judge = study.RemovalTest(settings[1], images, targets, **options)
        found.append((judge.deletion(no_ties).published, judge.insertion(no_ties).corrected))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)


class Certain(torch.nn.Module):
    """Sure of its first answer by more than float32 can tell, as long as anything can be seen."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        contrast = images.flatten(1).std(1)
        return torch.stack([60 + 300 * contrast, torch.zeros_like(contrast)], 1)


def test_a_picture_whose_probability_no_deletion_moves_is_searched_by_its_log_odds() -> None:
    images, targets = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 0])
    recipe = dataclasses.replace(AGARWAL_2023.at(32), side=8, steps=2, start="deletions", blur=4.0)
    found = study.maps(Certain(), images, targets, recipe, softmax=1.0, seed=0, batch=2)
    assert found.saturated.all() and (found.checks.range < study.SATURATED).all()
    assert found.checks.empty.all()  # the probability is 1 with and without: nothing is the cheapest
    score = study.log_odds(Certain(), images, targets, 1.0)
    blurry = images.mean((2, 3), keepdim=True).expand_as(images)
    expected = [(60 + 300 * each.std()) / (60 + 300 * image.std()) for each, image in zip(blurry, images, strict=True)]
    torch.testing.assert_close(score(blurry, torch.arange(2)), torch.stack(expected))
    torch.testing.assert_close(score(images, torch.arange(2)), torch.ones(2))


# --- instruments --------------------------------------------------------------------------------------------------


def test_table_2_is_of_noisy_pictures_and_has_its_controls(clip, cars, cfg) -> None:
    found = study.table2(clip, *cars, Settings(cfg.as_dict() | {"few": 1}, "few"), 0)
    assert set(found.right) == {"zero-shot", "fine-tuned"}
    assert all(values.shape[-1] == len(cars[1]) for values in (*found.right.values(), *found.controls.values()))
    assert all(found.controls[name].shape == (study.HEADS, len(cars[1])) for name in ("again", "many-minus-few"))
    assert not np.array_equal(*found.controls["many-minus-few"][:2])  # other few pictures
    zero_shot, fine_tuned = (values.mean() for values in found.right.values())
    assert found.controls["best"].mean() == max(zero_shot, fine_tuned)
    np.testing.assert_array_equal(found.controls["again"], -found.controls["again-back"])
    people = pictures.harder("occupation", cfg, 0, "test")
    assert 0.2 < np.mean([scene.background is None for scene in people.scenes]) < 0.8
    assert not torch.equal(people.images, people.scenes.images(64))
    noisy = pictures.grainy(cars[1], 0.2, 3, "test")
    assert torch.equal(noisy.images, pictures.grainy(cars[1], 0.2, 3, "test").images)
    assert 0.1 < (noisy.images - cars[1].images).std() < 0.2 and noisy.images.min() >= 0


def test_orders_that_are_known_are_deleted_for_both_settings(settings, cars) -> None:
    images, targets = cars[1].stack(range(5)), cars[1].labels[:5]
    measured = {"mean": (0.45,) * 3, "step": 1024, "seed": 0, "ties": 1}
    own = [torch.rand(5, 64, 64, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    region = pictures.oracle(cars[1], "cars", 64)[:5]
    found = study.deletion_controls(settings, images, targets, own, region, measured)
    judges = [study.RemovalTest(setting, images, targets, **measured) for setting in settings]
    oracle = [judge.deletion(region.float()) for judge in judges]
    edges = [judge.deletion(study.edges(images)) for judge in judges]
    another = [judge.deletion(each[[4, 0, 1, 2, 3]]) for judge, each in zip(judges, own, strict=True)]
    mine = [judge.deletion(each) for judge, each in zip(judges, own, strict=True)]
    for protocol, field in (("as-published", "published"), ("corrected", "corrected")):
        for name, first, second in (("oracle-minus-edges", oracle, edges), ("own-minus-another", mine, another)):
            expected = np.mean([getattr(a, field) - getattr(b, field) for a, b in zip(first, second, strict=True)], 0)
            np.testing.assert_allclose(found.gaps[protocol, name], expected, atol=1e-6)
        np.testing.assert_array_equal(found.gaps[protocol, "same-map"], -found.gaps[protocol, "same-map-back"])
    blind = study.deletion_controls(settings, images, targets, own, torch.zeros_like(region), measured)
    assert "oracle" not in blind.orders["zero-shot"] and ("corrected", "oracle-minus-random") not in blind.gaps


def test_edges_are_where_brightness_changes() -> None:
    images = torch.zeros(1, 3, 64, 64)
    images[:, :, :, 32:] = 1
    found = study.edges(images)[0]
    assert found.argmax(1).eq(31).all() and found[:, :20].max() < 1e-6


def test_the_rank_of_a_region_is_that_of_all_pairs() -> None:
    draw = torch.Generator().manual_seed(0)
    maps, regions = torch.randint(4, (3, 5, 4), generator=draw).float(), torch.rand(3, 5, 4, generator=draw) > 0.5
    expected = []
    for heat, inside in zip(maps, regions, strict=True):
        pairs = [float(a > b) + 0.5 * float(a == b) for a in heat[inside] for b in heat[~inside]]
        expected.append(np.mean(pairs))
    np.testing.assert_allclose(study.rank_in(maps, regions), expected)
    assert study.rank_in(torch.zeros(3, 5, 4), regions).tolist() == [0.5] * 3


def test_improvements_and_gaps_are_of_means() -> None:
    draw = np.random.default_rng(0)
    ours, other = draw.uniform(0.2, 0.4, 60), draw.uniform(0.4, 0.6, 60)
    found = study.improvement(ours, other, 0)
    assert found.value == pytest.approx(1 - ours.mean() / other.mean()) and found.low < found.value < found.high
    first = np.arange(60) < 25
    gap = study.between_groups(ours, first, ~first, 0)
    assert gap.value == pytest.approx(ours[first].mean() - ours[~first].mean()) and gap.n == 25


def test_attacked_cars_lie_for_the_class_that_they_are_labelled_as(cars) -> None:
    data, positions = cars[1], torch.tensor([1, 4, 5])
    found = pictures.attacked(data, positions)
    for scene, before, label in zip(found.scenes, data.scenes[positions], found.labels.tolist(), strict=True):
        assert scene.text != before.make and scene.make == before.make
        assert found.names[label] == f"{scene.text} {before.model}"
    assert found.images.shape == (3, 3, 64, 64)


@pytest.mark.parametrize("name", planted.READERS)
def test_readers_are_told_one_factor_of_scenes_whose_factors_are_unrelated(name: str) -> None:
    reader = planted.READERS[name]
    scenes = planted.mixed(reader.task, 400, 0, "train")
    told = planted.told(reader, scenes).numpy()
    assert set(told) == set(range(planted.answers_of(reader)))
    for factor in planted.FACTORS[reader.task]:
        if factor != reader.factor:
            values = scenes.codes[factor]
            table = np.array([[np.mean(told[values == v] == t) for t in set(told)] for v in set(values)])
            assert np.ptp(table, axis=0).max() < 0.45, factor  # no value tells the answer


def test_readers_have_their_part_in_every_picture_and_what_they_read_is_counted(cfg) -> None:
    small = {"size": 64, "train": {"cars": 64, "occupation": 64}, "epochs": 1, "trainings": 3, "explained": 3}
    own = Settings(cfg.as_dict() | {"planted": small, "steps": 2}, "planted")
    means, first = planted.read(own, 0)
    found, shown = planted.read_once(own, seed_for(0, "planted readers", 0))
    assert set(shown) == set(planted.READERS) and all(len(values) == 3 for values in found.values())
    assert {id: each[0] for id, each in means.items()} == {id: each.mean() for id, each in found.items()}
    assert all(len(each) == 3 for each in means.values())
    assert any(len(set(each)) == 3 for each in means.values())  # no two trainings are the same
    assert torch.equal(first["text"][1].maps, shown["text"][1].maps)
    reader, explained = shown["text"]
    assert reader.region.flatten(1).any(1).all() and explained.maps.shape == (3, 64, 64)
    before = reader.answers(reader.scenes, own)
    texts = reader.scenes.family.values("text")
    moved = [scene.replace(text=texts[1 + texts.index(scene.text) % 4]) for scene in reader.scenes]
    after = reader.answers(SceneSet.of(moved), own)
    np.testing.assert_array_equal(found["text.flips.own"], (before != after).numpy())
    assert all(scene.face_mask for scene in shown["face"][0].scenes)


def test_matched_recipes_scale_both_weights() -> None:
    found = study.scaled(AGARWAL_2023, 0.1)
    assert (found.area, found.variation) == pytest.approx((1e-5, 1e-3)) and found.steps == AGARWAL_2023.steps
    for ratio in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="nothing can be matched"):
            study.scaled(AGARWAL_2023, ratio)


def test_removal_is_relative_to_chance(settings, cars) -> None:
    setting, data = settings[1], cars[1]
    images, targets = data.stack(range(6)), data.labels[:6]
    options = {"mean": (0.45,) * 3, "step": 512, "seed": 0, "ties": 2}
    random = torch.rand(6, 64, 64, generator=torch.Generator().manual_seed(1))
    body = pictures.regions(data, "car", 64)[:6].float()
    test = study.RemovalTest(setting, images, targets, **options)
    chance, ours = test.deletion(random), test.deletion(body)
    assert chance.corrected.mean() == pytest.approx(1, abs=0.25) and chance.spread == 0
    assert ours.corrected.shape == (6,) and ours.spread > 0 and (ours.published <= 1).all()


def test_correlation_is_numpys(cfg) -> None:
    first, second = torch.rand(3, 5, 4), torch.rand(3, 5, 4)
    second[2] = 0.5
    found = study.correlation(first, second)
    expected = [np.corrcoef(first[i].flatten(), second[i].flatten())[0, 1] for i in range(2)]
    np.testing.assert_allclose(found, [*expected, np.nan], atol=1e-6)


def test_randomised_models_are_other_models_and_leave_ours_alone(clip, settings, cars, cfg) -> None:
    images = cars[1].stack(range(4))
    for setting in settings:
        with evaluating(setting.model), torch.inference_mode():
            before = setting.model(images)
        others = study.randomised(clip, setting, cars[0], cfg, 0)
        assert set(others) == {"itself", "random weights", "shuffled labels"} and others["itself"] is setting
        with torch.inference_mode():
            assert torch.equal(setting.model(images), before)
            outputs = {name: other.model(images) for name, other in others.items()}
        for name in ("random weights", "shuffled labels"):
            assert not torch.allclose(outputs[name], before, atol=1e-2), name
        kept = setting.model.encoder.state_dict()
        drawn = others["random weights"].model.encoder.state_dict()
        weights = [name for name, value in kept.items() if value.ndim > 1]
        assert weights and not any(torch.equal(kept[name], drawn[name]) for name in weights)
        if isinstance(setting.model, LinearProbe):
            assert others["shuffled labels"].model.encoder is setting.model.encoder
        else:
            rows = others["shuffled labels"].model.classes
            assert not (rows == setting.model.classes).all(1).any()  # no class keeps its text
            assert torch.equal(rows.sort(0).values, setting.model.classes.sort(0).values)


def test_other_explainers_give_maps_of_the_images_size(settings, cars, cfg) -> None:
    images, targets = cars[1].stack(range(3)), cars[1].labels[:3]
    for setting in settings:
        found = study.other_explainers(setting, images, targets, cfg, 0)
        assert list(found) == ["Grad-CAM", "RISE", "integrated gradients"]
        for maps in found.values():
            assert maps.shape == (3, 64, 64) and maps.min() >= 0 and (maps.flatten(1).std(1) > 0).all()


def test_flips_count_the_answers_that_change(settings) -> None:
    zero_shot, _ = settings
    classes = zero_shot.model.classes
    before, after = classes[:4], classes[[0, 1, 5, 3]]  # each is most like itself
    found = study.flips(zero_shot, before, after)
    assert (found.value, found.n) == (0.25, 4)
