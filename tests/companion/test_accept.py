import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import integrate, optimize
from typer.testing import CliRunner

from xaikit.__main__ import app
from xaikit.companion import accept, freshness, run
from xaikit.storage import sources
from xaikit.storage.arithmetic import ARITHMETICS
from xaikit.storage.paths import ROOT, shipped

SHIPPED = shipped(ROOT)


def a_record(
    values: dict[str, tuple[float, str]], seed: int = 0, notebook: str = "01_x", source: str = "here"
) -> dict[str, Any]:
    numbers = [
        {"id": id, "value": value, "unit": unit, "protocol": "exact" if "identity" in id else "corrected"}
        for id, (value, unit) in values.items()
    ]
    claims = [{"id": "a.claim", "verdict": "holds" if seed < 2 else "fails"}]
    return {
        "notebook": notebook, "seed": seed, "source": source, "digest": f"digest {seed}", "numbers": numbers,
        "claims": claims, "machine": {"cpu": "a CPU"},
    }  # fmt: skip


def kept(*by_seed: dict[str, tuple[float, str]]) -> accept.Accepted:
    """What is kept of runs with these values under seeds 0, 1, …"""
    notebook = None
    for seed, values in enumerate(by_seed):
        notebook = accept.with_run(notebook, a_record(values, seed), "portable")
    return notebook


def bands(*by_seed: dict[str, tuple[float, str]]) -> dict[str, accept.Number]:
    return kept(*by_seed)["numbers"]


def t_quantile(probability: float, degrees: float) -> float:
    """Student's t quantile from its density alone."""

    def density(t: float) -> float:
        return (1 + t * t / degrees) ** (-(degrees + 1) / 2)

    total = integrate.quad(density, -math.inf, math.inf)[0]
    return optimize.brentq(lambda t: 0.5 + integrate.quad(density, 0, t)[0] / total - probability, 0, 100, xtol=1e-10)


def test_bands_follow_the_formula() -> None:
    seen = {"a": [0.50, 0.52, 0.47, 0.51], "b": [0.8, 0.9, 0.7, 0.8], "c": [0.1, 0.1, 0.1, 0.2]}
    made = bands(*({id: (each[i], "score") for id, each in seen.items()} for i in range(4)))
    squared = {id: np.var(each, ddof=1) for id, each in seen.items()}
    typical = np.median(list(squared.values()))
    for id, each in seen.items():
        s = math.sqrt((3 * squared[id] + 4 * typical) / 7)
        half = t_quantile(0.9995, 7) * s * math.sqrt(1 + 1 / 4)
        assert made[id]["value"] == each[0]
        assert made[id]["low"] == pytest.approx(np.mean(each) - half, rel=1e-4)
        assert made[id]["high"] == pytest.approx(np.mean(each) + half, rel=1e-4)
        assert made[id]["unit"] == "score"


def test_bands_hold_all_seeds_even_a_lone_outlier() -> None:
    quiet = {f"quiet{i}": [0.5 + 1e-6 * i, 0.5] for i in range(9)}
    seen = {**quiet, "wild": [0.0, 1.0]}
    made = bands(*({id: (each[i], "score") for id, each in seen.items()} for i in range(2)))
    for id, each in seen.items():
        assert made[id]["low"] <= min(each) and max(each) <= made[id]["high"]


def test_bands_stay_in_the_range_of_the_unit_and_too_wide_ones_check_nothing() -> None:
    seen = {
        "near one": ("fraction", [1.0, 0.99, 1.0, 0.98]),
        "wide": ("fraction", [0.2, 0.5, 0.9, 0.4]),
        "wide difference": ("difference", [-0.6, 0.5, 0.3, 0.1]),
        "a difference": ("difference", [-0.02, 0.01, 0.0, 0.02]),
        "rare": ("count", [0, 1, 0, 2]),
        "p": ("p-value", [1.0, 1.0, 1.0, 1.0]),
        "p.identity": ("p-value", [0.25, 0.25, 0.25, 0.25]),
        "free": ("score", [-5.0, 9.0, 100.0, 3.0]),
    }
    units = {id: unit for id, (unit, _) in seen.items()}
    # Many quiet ones of a unit, so that the typical variance is small.
    seen |= {
        f"quiet {unit} {i}": (unit, [0.9, 0.9, 0.9, 0.901]) for unit in ("fraction", "difference") for i in range(9)
    }
    made = bands(*({id: (each[i], unit) for id, (unit, each) in seen.items()} for i in range(4)))
    assert {id for id in units if made[id]["low"] is None} == {"wide", "wide difference", "p"}
    assert all(made[id]["high"] is None for id in ("wide", "wide difference", "p"))
    assert made["near one"]["high"] == 1.0 and 0.9 < made["near one"]["low"] < 0.98
    assert made["a difference"]["low"] < -0.02 and made["rare"]["low"] == 0.0
    assert made["p.identity"]["low"] == pytest.approx(0.25, rel=1e-3)
    assert made["free"]["low"] < -5.0


def test_numbers_that_no_seed_changes() -> None:
    same = {
        "count": (1234567.0, "count"),
        "identity": (0.169014, "score"),
        "saturated": (1.0, "score"),
        "alone": (2.0, "another"),
        "moves": (0.1, "score"),
    }
    made = bands(same, {**same, "moves": (0.3, "score")})
    width = {id: band["high"] - band["low"] for id, band in made.items()}
    assert made["count"]["value"] == 1234567.0 and width["count"] == 0
    assert width["identity"] == pytest.approx(2e-4 * 0.169014, rel=0.1)
    assert width["alone"] == pytest.approx(2e-4 * 2.0, rel=0.1)  # nothing says how such a number moves
    # A saturated accuracy borrows the spread of its peers: s^2 = 4 s_0^2 / (1 + 4).
    assert width["saturated"] == pytest.approx(width["moves"] * (4 / 5) ** 0.5, rel=1e-3)


def test_bands_hold_a_new_seed_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.5, 2.0, size=2000)
    drawn = rng.normal(size=(5, 2000)) * spread
    made = bands(*({f"n{i}": (float(v), "score") for i, v in enumerate(row)} for row in drawn[:4]))
    inside = np.mean([made[f"n{i}"]["low"] <= v <= made[f"n{i}"]["high"] for i, v in enumerate(drawn[4])])
    assert inside > 0.99
    widths = np.array([made[f"n{i}"]["high"] - made[f"n{i}"]["low"] for i in range(2000)])
    assert np.median(widths / spread) < 15


def test_a_number_that_some_run_could_not_measure_is_not_checked() -> None:
    made = bands({"a": (1.0, "count"), "k": (3.0, "count")}, {"k": (3.0, "count"), "b": (1.0, "count")})
    assert made.keys() == {"a", "k"}
    assert (made["a"]["low"], made["k"]["low"]) == (None, 3.0)
    assert made["a"]["values"] == [1.0, None]


def test_one_run_alone_has_values_and_no_bands() -> None:
    notebook = kept({"a": (1.0, "count")})
    assert notebook["numbers"]["a"] == {
        "value": 1.0, "low": None, "high": None, "unit": "count", "exact": False, "values": [1.0],
    }  # fmt: skip
    with pytest.raises(ValueError, match="the ordinary run, of seed 0, must be accepted first"):
        accept.with_run(None, a_record({"a": (1.0, "count")}, seed=1), "native")


def test_a_number_that_runs_of_another_source_lack_has_a_band_of_those_that_have_it() -> None:
    old, new = {"a": (1.0, "score")}, {"a": (1.1, "score"), "b": (2.0, "score")}
    notebook = None
    for seed, values, source in ((0, old, "old"), (1, old, "old"), (2, {"a": (1.2, "score")}, "old"), (0, new, "new")):
        notebook = accept.with_run(notebook, a_record(values, seed, source=source), "portable")
    assert notebook["numbers"]["b"]["low"] is None and notebook["numbers"]["b"]["values"] == [2.0, None, None]
    notebook = accept.with_run(notebook, a_record({**new, "b": (2.2, "score")}, 1, source="new"), "portable")
    assert notebook["numbers"]["b"]["low"] < 2.0 < 2.2 < notebook["numbers"]["b"]["high"]
    assert notebook["numbers"]["a"]["values"] == [1.1, 1.1, 1.2]
    assert accept.runs_of(notebook, "new") == (2, 3) and accept.runs_of(notebook, "newer") == (0, 3)


def test_a_run_takes_the_place_of_the_one_of_its_variant_and_the_order_of_runs_does_not_matter() -> None:
    runs = [a_record({"a": (float(seed), "score"), "b": (2.0 * seed, "score")}, seed) for seed in range(4)]
    arithmetics = ["portable", "widest", "plain", "portable"]
    made = []
    for order in ([0, 1, 2, 3], [0, 3, 1, 2, 1], [0, 2, 3, 0, 1]):
        notebook = None
        for seed in order:
            notebook = accept.with_run(notebook, runs[seed], arithmetics[seed])
        made.append(notebook)
    assert made[0] == made[1] == made[2]
    again = accept.with_run(made[0], a_record({"a": (9.0, "score")}, 2, source="later"), "plain")
    assert again["numbers"]["a"]["values"] == [0.0, 1.0, 9.0, 3.0]
    assert again["numbers"]["b"]["values"] == [0.0, 2.0, None, 6.0]
    assert [run["source"] for run in again["runs"]] == ["here", "here", "later", "here"]
    assert again["digest"] == "digest 0" and again["runs"][1]["cpu"] == "a CPU"
    other = accept.with_run(made[0], runs[2], "widest")  # another arithmetic under this seed is another variant
    assert len(other["runs"]) == 5


def test_verdicts_are_counted_over_all_runs_or_those_of_one_source() -> None:
    notebook = None
    for seed, source in ((0, "old"), (1, "old"), (2, "old"), (0, "new"), (3, "new")):
        notebook = accept.with_run(notebook, a_record({"a": (1.0, "count")}, seed, source=source), "portable")
    assert accept.verdict_counts(notebook) == {"a.claim": {"holds": 2, "fails": 2}}
    assert accept.verdict_counts(notebook, "new") == {"a.claim": {"holds": 1, "fails": 1}}
    assert accept.verdict_counts(notebook, "old") == {"a.claim": {"holds": 1, "fails": 1}}
    silent = a_record({"a": (1.0, "count")}, 4, source="new") | {"claims": []}
    assert accept.verdict_counts(accept.with_run(notebook, silent, "plain"), "new") == {
        "a.claim": {"holds": 1, "fails": 1}
    }


def earlier() -> accept.Accepted:
    """Of days when no values were kept: bands of three runs."""
    return {
        "digest": "digest 0",
        "runs": [{"seed": 0, "arithmetic": "portable"}, {"seed": 1, "arithmetic": "widest"}],
        "verdicts": {"a.claim": ["holds", None]},
        "numbers": {id: {"value": 0.5, "low": 0.4, "high": 0.6, "unit": "score"} for id in ("a", "gone")},
    }


def test_bands_of_earlier_days_stay_until_two_runs_have_values() -> None:
    assert accept.runs_of(earlier(), "here") == (0, 2) and accept.verdict_counts(earlier()) == {"a.claim": {"holds": 1}}
    one = accept.with_run(earlier(), a_record({"a": (0.55, "score"), "b": (1.0, "score")}), "portable")
    assert one["numbers"]["a"] == {
        "value": 0.55, "low": 0.4, "high": 0.6, "unit": "score", "exact": False, "values": [0.55, None],
    }  # fmt: skip
    assert one["numbers"].keys() == {"a", "b"} and one["numbers"]["b"]["low"] is None
    assert accept.runs_of(one, "here") == (1, 2)
    two = accept.with_run(one, a_record({"a": (0.56, "score"), "b": (1.1, "score")}, 5), "plain")
    assert two["numbers"]["a"]["values"] == [0.55, 0.56] and accept.runs_of(two, "here") == (2, 2)
    assert two == kept_of(two)


def kept_of(notebook: accept.Accepted) -> accept.Accepted:
    """The notebook with bands computed from its values anew."""
    found = accept.bands(notebook)
    numbers = {id: {**number, "low": found[id][0], "high": found[id][1]} for id, number in notebook["numbers"].items()}
    return {**notebook, "numbers": numbers}


def test_the_bands_that_ship_are_those_of_the_values_that_ship() -> None:
    file = SHIPPED / "data" / "accepted" / "mini.json"
    assert file.stat().st_size <= 1_000_000
    for notebook in accept.read("mini").values():
        runs = notebook["runs"]
        assert runs[0]["seed"] == 0 and len({(run["seed"], run["arithmetic"]) for run in runs}) == len(runs)
        assert all(len(reached) == len(runs) for reached in notebook["verdicts"].values())
        if sum("source" in run for run in runs) > 1:
            assert all(len(number["values"]) == len(runs) for number in notebook["numbers"].values())
            assert notebook == kept_of(notebook)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two notebooks whose runs are faked: the value of a number is its seed's. `ran.txt` says which were made."""
    for name in ("notebooks/01_x.py", "notebooks/02_y.py", "xaikit/companion/profiles/mini.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('[common]\narithmetic = "portable"\n' if name.endswith("toml") else "")
    (tmp_path / "source").write_text("first")
    (tmp_path / "fails").touch()

    def faked(name: str, profile: str, *, seed: int, arithmetic: str | None, root: Path) -> Path:
        with (root / "ran.txt").open("a") as file:
            file.write(f"{name} {seed} {arithmetic}\n")
        if f"{name} {seed}" in (root / "fails").read_text().splitlines():
            raise RuntimeError(f"{name}: cell 3 failed")
        folder = root / "runs" / name / str(seed)
        folder.mkdir(parents=True, exist_ok=True)
        values = {f"{name}.n": (0.5 + seed, "score"), f"{name}.k": (3.0, "count")}
        (folder / "numbers.json").write_text(json.dumps(a_record(values, seed, name, (root / "source").read_text())))
        return folder

    monkeypatch.setattr(run, "run_notebook", faked)
    monkeypatch.setattr(sources, "notebook_source", lambda name, profile, root: (root / "source").read_text())
    return tmp_path


def ran(root: Path) -> list[str]:
    """What was run since this was asked last."""
    lines = (root / "ran.txt").read_text().splitlines() if (root / "ran.txt").exists() else []
    (root / "ran.txt").unlink(missing_ok=True)
    return lines


def test_accept_then_drift(root: Path) -> None:
    assert accept.drift(a_record({"new": (1.0, "count")}), "mini", root) == accept.Drift(unknown=["new"])
    file = accept.accept("mini", more=3, root=root)
    assert file == root / "data" / "accepted" / "mini.json"
    notebook = accept.read("mini", root)["01_x"]
    assert notebook["numbers"]["01_x.n"]["value"] == 0.5 and notebook["digest"] == "digest 0"
    assert [(each["seed"], each["arithmetic"]) for each in notebook["runs"]] == [
        (0, "portable"), (1, "one-thread"), (2, "widest"),
    ]  # fmt: skip
    assert notebook["verdicts"] == {"a.claim": ["holds", "holds", "fails"]}
    assert notebook == kept_of(notebook)

    band = notebook["numbers"]["01_x.n"]
    record = a_record({"01_x.n": (band["high"] * 1.01, "score"), "01_x.new": (1.0, "count")}, seed=1)
    assert accept.drift(record, "mini", root) == accept.Drift(
        outside=[("01_x.n", band["high"] * 1.01, band["low"], band["high"])],
        unknown=["01_x.new"],
        missing=["01_x.k"],
    )
    good = a_record({"01_x.n": (0.5, "score"), "01_x.k": (3.0, "count")})
    assert accept.drift(good, "mini", root) == accept.Drift(within=["01_x.n", "01_x.k"], same=True)


def test_what_the_present_source_made_is_not_run_again(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accept.accept("mini", ["01_x"], more=2, root=root)
    assert ran(root) == ["01_x 0 None", "01_x 1 one-thread"]
    assert capsys.readouterr().out.splitlines()[-1] == "01_x: 2 of 2 runs are of the present source"
    accept.accept("mini", ["01_x"], root=root)
    assert [line.split()[1] for line in ran(root)] == list("234567")
    first = (root / "data" / "accepted" / "mini.json").read_bytes()
    accept.accept("mini", ["01_x"], root=root)
    assert ran(root) == [] and (root / "data" / "accepted" / "mini.json").read_bytes() == first
    accept.accept("mini", ["01_x"], more=2, root=root)  # beyond the eight, with seeds of their own
    assert ran(root) == ["01_x 8 None", "01_x 9 one-thread"]
    (root / "source").write_text("second")
    accept.accept("mini", ["01_x"], more=1, root=root)
    assert ran(root) == ["01_x 0 None"]
    notebook = accept.read("mini", root)["01_x"]
    assert accept.runs_of(notebook, "second") == (1, 10) and notebook == kept_of(notebook)
    accept.accept("mini", ["02_y"], more=1, root=root)
    assert accept.read("mini", root)["01_x"] == notebook  # the other notebook's runs stayed
    (root / "notebooks" / "01_x.py").unlink()
    accept.accept("mini", more=1, root=root)
    assert list(accept.read("mini", root)) == ["02_y"]


def test_a_run_that_fails_is_said_and_stops_no_other_one(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "fails").write_text("01_x 1\n02_y 0\n")
    with pytest.raises(RuntimeError, match=r"^failed: 01_x under seed 1, one-thread; 02_y under seed 0, portable$"):
        accept.accept("mini", more=3, root=root)
    assert ran(root) == ["01_x 0 None", "01_x 1 one-thread", "01_x 2 widest", "02_y 0 None"]
    assert [each["seed"] for each in accept.read("mini", root)["01_x"]["runs"]] == [0, 2]
    assert "02_y" not in accept.read("mini", root) and "01_x: cell 3 failed" in capsys.readouterr().err
    (root / "fails").write_text("")
    accept.accept("mini", ["01_x"], more=1, root=root)
    assert [each["seed"] for each in accept.read("mini", root)["01_x"]["runs"]] == [0, 1, 2]


def test_two_that_accept_at_once_lose_nothing(root: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: accept.accept("mini", [name], more=8, root=root), ("01_x", "02_y")))
    assert [len(notebook["runs"]) for notebook in accept.read("mini", root).values()] == [8, 8]


def test_a_damaged_file_is_named(root: Path) -> None:
    accept.accept("mini", more=1, root=root)
    file = root / "data" / "accepted" / "mini.json"
    file.write_text(file.read_text()[:100])
    with pytest.raises(ValueError, match=r"mini\.json is damaged \(.*\); restore it from the repository"):
        accept.read("mini", root)


def test_the_command_accepts_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str], int | None]] = []

    def faked(profile: str, names: list[str], *, more: int | None) -> Path:
        if "04_none" in names:
            raise ValueError("unknown notebook '04_none'")
        asked.append((profile, list(names), more))
        return Path("data/accepted/mini.json")

    monkeypatch.setattr(accept, "accept", faked)
    runner = CliRunner()
    for arguments in ([], ["--variants", "2", "01_x", "02_y", "--profile", "paper"]):
        done = runner.invoke(app, ["accept", *arguments])
        assert (done.exit_code, done.stdout) == (0, "wrote data/accepted/mini.json\n")
    assert asked == [("mini", [], None), ("paper", ["01_x", "02_y"], 2)]
    refused = runner.invoke(app, ["accept", "04_none"])
    assert (refused.exit_code, refused.stderr) == (1, "unknown notebook '04_none'\n")


@pytest.mark.parametrize("more", [0, -1])
def test_no_variants_are_refused(root: Path, more: int) -> None:
    with pytest.raises(ValueError, match=f"{more} more variants are none: give 1 or more"):
        accept.accept("mini", more=more, root=root)


def test_a_number_that_is_not_checked_is_counted_as_such(root: Path) -> None:
    file = root / "data" / "accepted" / "mini.json"
    file.parent.mkdir(parents=True)
    numbers = {"a": {"low": None, "high": None}, "b": {"low": 0.0, "high": 1.0}}
    file.write_text(json.dumps({"01_x": {"digest": "d", "numbers": numbers}}))
    record = a_record({"a": (0.9, "fraction"), "b": (0.5, "fraction")})
    assert accept.drift(record, "mini", root) == accept.Drift(within=["b"], unchecked=["a"])


def test_the_variants_cover_what_machines_do() -> None:
    every = list(accept._variants(None, "here", "portable", None))
    assert every[0] == (0, None)
    seeds, arithmetics = zip(*every, strict=True)
    assert len(set(seeds)) == len(seeds) >= 8 and len(set(arithmetics)) == len(arithmetics)
    chosen = [ARITHMETICS[name or "portable"] for name in arithmetics]
    assert {values["OMP_NUM_THREADS"] for values in chosen} == {"1", "2"}
    for variable, kinds in (("ATEN_CPU_CAPABILITY", 3), ("ONEDNN_MAX_CPU_ISA", 2), ("MKL_CBWR", 4)):
        assert len({values.get(variable) for values in chosen}) == kinds


def test_a_record_counts_the_verdicts_of_all_runs_of_its_source(root: Path) -> None:
    """What differs among them is inconclusive, whatever this run says; runs of other code do not count."""
    accept.accept("mini", ["01_x"], more=3, root=root)  # the third one fails
    record = a_record({}, source="first") | {"profile": "mini"}
    record["machine"]["arithmetic"] = "portable"
    (claim,) = accept.with_other_runs(record, root)["claims"]
    assert (claim["verdict"], claim["seeds"]) == ("inconclusive", {"holds": 2, "fails": 1})
    (again,) = accept.with_other_runs(record | {"claims": [claim | {"this_run": "fails"}]}, root)["claims"]
    assert again["seeds"] == {"holds": 1, "fails": 2}
    for other in ({"source": "another"}, {"notebook": "02_y"}, {"profile": "paper"}):
        (alone,) = accept.with_other_runs(record | other, root)["claims"]
        assert (alone["verdict"], alone["seeds"]) == ("holds", {"holds": 1})
    (root / "data" / "accepted" / "mini.json").write_text("{")
    (alone,) = accept.with_other_runs(record, root)["claims"]  # a run is not lost for that
    assert alone["seeds"] == {"holds": 1}


def test_what_was_accepted_is_in_the_record_that_is_there_and_leaves_it_fresh(checkout: Path) -> None:
    job = run.jobs(["01_small"], "mini", root=checkout)[0]
    run.run_notebook("01_small", root=checkout)
    before = json.loads((job.results / "numbers.json").read_text())
    assert before["claims"][0]["seeds"] == {"holds": 1}

    def renewed(record: dict[str, Any]) -> dict[str, Any]:
        return {**record, "claims": [{**record["claims"][0], "seeds": {"holds": 2}}]}

    run.renew_record(job, renewed)
    assert json.loads((job.results / "numbers.json").read_text())["claims"][0]["seeds"] == {"holds": 2}
    assert freshness.status(job).state == freshness.State.FRESH
    (job.results / "fig1.png").write_bytes(b"changed")
    run.renew_record(job, renewed)
    assert freshness.status(job).state == freshness.State.STALE
    shutil.rmtree(job.results)
    run.renew_record(job, renewed)  # nothing is there
    assert not job.results.exists()
