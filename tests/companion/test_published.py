"""data/published.toml: well formed, complete where code counts on it, and in agreement with itself."""

import math
import re
import tomllib
from itertools import product
from typing import Any

import pytest

from xaikit.storage.paths import DATA

FIELDS = {"id", "paper", "item", "value", "unit", "where", "kind"}
UNITS = {"percent", "fraction", "p-value", "score", "count", "number", "index"}
UNITS |= {"pixels", "words", "seconds", "minutes", "gigabytes", "cosine"}
KINDS = {"published", "repository", "decoded", "figure"}
ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9]+(-[a-z0-9]+)*)+")

SPLITS = ("train", "test", "real-world")
STAGES = ("zero", "swapped", "influence")
PARTS = {
    "biased": ("correct-shape", "correct-colour", "wrong-shape", "wrong-colour"),
    "unbiased": ("correct-shape", "wrong-shape", "any-colour"),
}
METHODS = ("erm", "randmask", "masktune", "texplain")
GROUPS = ("s1", "s2", "s3", "worst-group")
VITS = ("vit-b-16", "vit-l-14", "vit-h-14")

PUBLISHED = tomllib.loads((DATA / "published.toml").read_text(encoding="utf-8"))
NUMBERS: list[dict[str, Any]] = PUBLISHED["number"]
VALUE: dict[str, float] = {number["id"]: number["value"] for number in NUMBERS}


def values_under(*parts: str) -> list[float]:
    """The values whose id starts with the dotted parts."""
    return [value for id_, value in VALUE.items() if id_.startswith(".".join(parts) + ".")]


def test_papers() -> None:
    assert set(PUBLISHED) == {"papers", "number"}
    assert set(PUBLISHED["papers"]) == {"koller", "taghanaki", "agarwal", "gandelsman"}
    for paper in PUBLISHED["papers"].values():
        assert {"title", "authors", "items"} <= set(paper) <= {
            "title", "authors", "items", "venue", "year", "url", "code",
        }  # fmt: skip
        assert all(item["name"] and item["where"] and len(item) == 2 for item in paper["items"])
        assert len({item["name"] for item in paper["items"]}) == len(paper["items"]) > 5
        assert paper["title"] and all(isinstance(author, str) and author for author in paper["authors"])


def test_ids_are_unique() -> None:
    ids = [number["id"] for number in NUMBERS]
    assert sorted(ids) == sorted(set(ids))


def test_numbers_are_well_formed() -> None:
    for number in NUMBERS:
        assert FIELDS <= set(number) <= FIELDS | {"note"}, number
        assert all(isinstance(text, str) and text.strip() for key, text in number.items() if key != "value")
        assert ID.fullmatch(number["id"]) and number["id"].split(".")[0] == number["paper"], number
        assert number["paper"] in PUBLISHED["papers"], number
        assert number["unit"] in UNITS and number["kind"] in KINDS, number
        value = number["value"]
        assert isinstance(value, int | float) and not isinstance(value, bool), number
        assert math.isfinite(value), number
        if number["unit"] in {"percent", "fraction", "p-value"}:
            assert 0 <= value <= (100 if number["unit"] == "percent" else 1), number
        if number["unit"] in {"count", "index", "pixels", "words"}:
            assert value >= 0 and value == int(value), number


@pytest.mark.parametrize(("split", "model", "stage"), list(product(SPLITS, PARTS, STAGES)))
def test_influence_row_adds_to_100(split: str, model: str, stage: str) -> None:
    row = [VALUE[f"koller.influence.{split}.{model}.{stage}.{part}"] for part in PARTS[model]]
    assert sum(row) == pytest.approx(100, abs=0.011)
    assert len(values_under("koller.influence", split, model, stage)) == len(row)


@pytest.mark.parametrize("stage", STAGES)
def test_second_run_adds_to_100(stage: str) -> None:
    assert sum(values_under("koller.influence-c5526ed.test.biased", stage)) == pytest.approx(100, abs=0.011)


@pytest.mark.parametrize(
    ("figure", "table", "split", "model"),
    [
        *(("fig4", "influence", split, model) for split, model in product(SPLITS, PARTS)),
        ("fig4-c5526ed", "influence-c5526ed", "test", "biased"),
    ],
)
def test_dominant_concept_is_the_sum_of_its_row(figure: str, table: str, split: str, model: str) -> None:
    row = {
        cue: sum(
            VALUE[f"koller.{table}.{split}.{model}.influence.{part}"] for part in PARTS[model] if part.endswith(cue)
        )
        for cue in ("colour", "shape")
    }
    shares = {cue: VALUE[f"koller.{figure}.{split}.{model}.{cue}"] for cue in row}
    assert shares == pytest.approx(row, abs=0.011)
    assert sum(shares.values()) == pytest.approx(100, abs=0.011)


@pytest.mark.parametrize("model", PARTS)
def test_random_matching_adds_to_100(model: str) -> None:
    name = f"koller.random-matching.{model}"
    assert VALUE[f"{name}.colour"] + VALUE[f"{name}.shape"] == pytest.approx(100, abs=0.11)
    parts = VALUE[f"{name}.colour.first-part"] + VALUE[f"{name}.colour.second-part"]
    assert VALUE[f"{name}.colour"] == pytest.approx(parts, abs=0.11)


def test_red_and_green_make_any_colour() -> None:
    split = sum(values_under("koller.influence-split.test.unbiased"))
    assert split == pytest.approx(VALUE["koller.influence.test.unbiased.influence.any-colour"], abs=0.011)


def test_map_counts() -> None:
    standalone, clip = VALUE["koller.maps.standalone"], VALUE["koller.maps.clip"]
    layers = [f"layer{stage}" for stage in range(1, 5)]
    assert sum(VALUE[f"koller.maps.standalone.{name}"] for name in ("conv1", *layers)) == standalone
    assert sum(VALUE[f"koller.maps.clip.{name}"] for name in layers) == clip
    assert round(100 * clip / standalone, 1) == VALUE["koller.maps.share"]
    for model in PARTS:
        distinct = 100 * VALUE[f"koller.maps.distinct.{model}"] / standalone
        assert round(distinct, 1) == VALUE[f"koller.maps.distinct-share.{model}"]
    assert 4e-9 * standalone * clip == pytest.approx(VALUE["koller.matching.memory"], abs=5e-4)


@pytest.mark.parametrize("split", ("train", "validation", "test", "real-world"))
def test_learning_curves_are_there(split: str) -> None:
    biased = VALUE[f"koller.fig1.biased.{split}"]
    assert (biased > VALUE[f"koller.fig1.biased.epoch10.{split}"]) == (split != "real-world")
    unbiased = f"koller.fig5.unbiased.{split}"
    assert VALUE[f"{unbiased}.low"] <= VALUE[unbiased] <= VALUE[f"{unbiased}.high"]


def test_koller_data_sizes() -> None:
    for split in SPLITS:
        assert VALUE[f"koller.data.{split}"] == 2 * VALUE[f"koller.data.{split}.per-class"]
    assert VALUE["koller.data.fold.train"] + VALUE["koller.data.fold.validation"] == VALUE["koller.data.train"]
    fold_batches = math.ceil(VALUE["koller.data.fold.train"] / VALUE["koller.training.batch"])
    assert fold_batches == VALUE["koller.training.biased.final-loss.batches"]
    assert VALUE["koller.training.biased.steps"] == fold_batches * VALUE["koller.training.biased.epochs"]
    mean_loss = VALUE["koller.training.biased.final-loss"] / fold_batches
    assert mean_loss == pytest.approx(VALUE["koller.training.biased.final-loss.mean"], abs=5e-3)
    for split in ("train", "test"):
        batches = VALUE[f"koller.data.{split}"] / VALUE["koller.surgery.batch"]
        assert VALUE[f"koller.surgery.batches.{split}"] == batches


@pytest.mark.parametrize("method", METHODS)
def test_averages_of_texplain_table_2(method: str) -> None:
    weights = [VALUE[f"taghanaki.table2.decoded.weight.{group}"] for group in GROUPS]
    rows = [VALUE[f"taghanaki.table2.{group}.{method}"] for group in GROUPS]
    average = sum(weight * row for weight, row in zip(weights, rows, strict=True)) / sum(weights)
    assert average == pytest.approx(VALUE[f"taghanaki.table2.decoded.average.{method}"], abs=0.0051)
    assert average == pytest.approx(VALUE[f"taghanaki.table2.average.{method}"], abs=0.02)
    assert VALUE[f"taghanaki.table2.worst-group.{method}"] > VALUE[f"taghanaki.table2.s2.{method}"]
    assert all(VALUE[f"taghanaki.table2.{row}.{method}.sd"] > 0 for row in (*GROUPS, "average"))


def test_taghanaki_arithmetic() -> None:
    gain = VALUE["taghanaki.table2.s2.texplain"] - VALUE["taghanaki.table2.s2.erm"]
    assert gain == pytest.approx(VALUE["taghanaki.table2.decoded.gain"])
    assert gain < VALUE["taghanaki.table2.s2.erm.sd"]
    features = VALUE["taghanaki.vit.tokens"] * VALUE["taghanaki.vit.width"]
    assert features == VALUE["taghanaki.flat.features"]
    assert features**2 == pytest.approx(VALUE["taghanaki.flat.layer-parameters"], rel=5e-3)
    assert VALUE["taghanaki.vit.tokens"] == VALUE["taghanaki.vit.grid"] ** 2 + 1


def test_waterbirds_sizes() -> None:
    test = sum(values_under("taghanaki.waterbirds.test"))
    assert test == VALUE["gandelsman.waterbirds.test.images"]
    assert test == sum(VALUE[f"taghanaki.table2.decoded.weight.{group}"] for group in GROUPS)
    train = "taghanaki.waterbirds.train"
    aligned = VALUE[f"{train}.landbird-land"] + VALUE[f"{train}.waterbird-water"]
    share = 100 * aligned / sum(values_under(train))
    assert share == pytest.approx(VALUE["taghanaki.waterbirds.aligned.train"], abs=0.5)


def test_agarwal_table_1_follows_from_the_decoded_counts() -> None:
    decoded = "agarwal.table1.decoded"
    for gender, setting in product(("female", "male"), ("zero-shot", "fine-tuned")):
        hits = VALUE[f"{decoded}.{gender}.{setting}.hits"]
        percent = 100 * hits / VALUE[f"{decoded}.{gender}.images"]
        printed = VALUE[f"agarwal.table1.{gender}.{setting}"]
        assert 0 <= percent - printed < 0.01, f"{gender}, {setting}: the paper truncates"
    images = VALUE[f"{decoded}.female.images"] + VALUE[f"{decoded}.male.images"]
    assert images == VALUE[f"{decoded}.images"] <= VALUE["agarwal.faces.images"]


def test_agarwal_data_sizes() -> None:
    assert VALUE["agarwal.cars.train"] + VALUE["agarwal.cars.test"] == VALUE["agarwal.cars.images"]
    per_class = VALUE["agarwal.occupation.per-class"]
    assert sum(values_under("agarwal.occupation.per-class")) == per_class
    assert per_class * VALUE["agarwal.occupation.classes"] == VALUE["agarwal.occupation.images"]
    for data_set in ("cars", "occupation"):
        assert VALUE[f"agarwal.probe.logits.{data_set}"] == VALUE[f"agarwal.{data_set}.classes"]
        zero_shot = VALUE[f"agarwal.table2.{data_set}.zero-shot"]
        assert zero_shot < VALUE[f"agarwal.table2.{data_set}.fine-tuned"]


@pytest.mark.parametrize("preset", ("fong2017", "agarwal2020", "jacobgil"))
def test_perturbation_presets_are_complete(preset: str) -> None:
    keys = ("iterations", "learning-rate", "l1", "tv", "tv-power", "mask-side", "noise")
    assert all(f"agarwal.mp.{preset}.{key}" in VALUE for key in keys)
    cells = VALUE[f"agarwal.mp.{preset}.mask-side"] ** 2
    if preset == "jacobgil":
        for weight in ("l1", "tv"):
            as_sum = VALUE[f"agarwal.mp.{preset}.{weight}"] / cells
            assert as_sum == pytest.approx(VALUE[f"agarwal.mp.{preset}.{weight}-as-sum"], rel=0.03)
    else:
        cost = VALUE[f"agarwal.mp.{preset}.l1"] * cells
        assert cost == pytest.approx(VALUE["agarwal.mp.deletion-cost"])


@pytest.mark.parametrize("model", VITS)
def test_gandelsman_tables(model: str) -> None:
    table = f"gandelsman.table1.{model}"
    assert VALUE[f"{table}.mlp-ablated"] < VALUE[f"{table}.base"]
    worst = f"gandelsman.waterbirds.{model}.worst-group"
    assert VALUE[f"{worst}.ours"] > max(VALUE[f"{worst}.base"], VALUE[f"{worst}.random"])
    assert VALUE[f"gandelsman.head-rank.{model}"] == VALUE[f"gandelsman.head-width.{model}"] + 3


@pytest.mark.parametrize(("model", "distinct", "layers"), [(VITS[0], 7, 12), (VITS[1], 15, 24), (VITS[2], 9, 32)])
def test_gandelsman_ablated_heads(model: str, distinct: int, layers: int) -> None:
    prefix = f"gandelsman.waterbirds.{model}.ablated."
    heads = [
        (value, VALUE[id_.removesuffix("layer") + "head"])
        for id_, value in VALUE.items()
        if id_.startswith(prefix) and id_.endswith(".layer")
    ]
    assert len(set(heads)) == distinct == VALUE.get(f"{prefix}distinct", distinct)
    assert all(layers - 4 <= layer < layers and 0 <= head < 16 for layer, head in heads)


def test_gandelsman_groups_agree_with_the_large_model() -> None:
    for column in ("base", "ours"):
        groups = [
            VALUE[f"gandelsman.waterbirds.groups.{bird}.{place}.{column}"]
            for bird, place in product(("waterbird", "landbird"), ("water", "land"))
        ]
        assert min(groups) == VALUE[f"gandelsman.waterbirds.vit-l-14.worst-group.{column}"]


def test_segmentation_is_best_for_the_paper() -> None:
    methods = ("lrp", "partial-lrp", "rollout", "raw-attention", "gradcam", "chefer", "ours")
    for metric in ("pixel-accuracy", "miou", "map"):
        column = {method: VALUE[f"gandelsman.segmentation.{method}.{metric}"] for method in methods}
        assert max(column, key=lambda method: column[method]) == "ours"
