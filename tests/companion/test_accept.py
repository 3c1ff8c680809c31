import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import integrate, optimize
from typer.testing import CliRunner

from xaikit.__main__ import app
from xaikit.companion import accept, run
from xaikit.storage.arithmetic import ARITHMETICS


def a_record(values: dict[str, tuple[float, str]], seed: int = 0, notebook: str = "01_x") -> dict[str, Any]:
    numbers = [
        {"id": id, "value": value, "unit": unit, "protocol": "exact" if "identity" in id else "corrected"}
        for id, (value, unit) in values.items()
    ]
    claims = [{"id": "a.claim", "verdict": "holds" if seed < 2 else "fails"}]
    return {"notebook": notebook, "seed": seed, "digest": f"digest {seed}", "numbers": numbers, "claims": claims}


def records(*by_seed: dict[str, tuple[float, str]]) -> list[dict[str, Any]]:
    return [a_record(values, seed) for seed, values in enumerate(by_seed)]


def t_quantile(probability: float, degrees: float) -> float:
    """Student's t quantile from its density alone."""

    def density(t: float) -> float:
        return (1 + t * t / degrees) ** (-(degrees + 1) / 2)

    total = integrate.quad(density, -math.inf, math.inf)[0]
    return optimize.brentq(lambda t: 0.5 + integrate.quad(density, 0, t)[0] / total - probability, 0, 100, xtol=1e-10)


def test_bands_follow_the_formula() -> None:
    seen = {"a": [0.50, 0.52, 0.47, 0.51], "b": [0.8, 0.9, 0.7, 0.8], "c": [0.1, 0.1, 0.1, 0.2]}
    made = accept.bands(records(*({id: (each[i], "score") for id, each in seen.items()} for i in range(4))))
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
    made = accept.bands(records(*({id: (each[i], "score") for id, each in seen.items()} for i in range(2))))
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
    made = accept.bands(records(*({id: (each[i], unit) for id, (unit, each) in seen.items()} for i in range(4))))
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
    made = accept.bands(records(same, {**same, "moves": (0.3, "score")}))
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
    made = accept.bands([a_record({f"n{i}": (float(v), "score") for i, v in enumerate(row)}) for row in drawn[:4]])
    inside = np.mean([made[f"n{i}"]["low"] <= v <= made[f"n{i}"]["high"] for i, v in enumerate(drawn[4])])
    assert inside > 0.99
    widths = np.array([made[f"n{i}"]["high"] - made[f"n{i}"]["low"] for i in range(2000)])
    assert np.median(widths / spread) < 15


def test_a_number_that_some_run_could_not_measure_is_not_checked() -> None:
    made = accept.bands(records({"a": (1.0, "count"), "k": (3.0, "count")}, {"k": (3.0, "count"), "b": (1.0, "count")}))
    assert made.keys() == {"a", "k"}
    assert (made["a"]["low"], made["k"]["low"]) == (None, 3.0)
    with pytest.raises(ValueError, match="at least two runs: give more variants"):
        accept.bands(records({"a": (1.0, "count")}))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two notebooks whose runs are faked: the value of a number is its seed's."""
    for name in ("notebooks/01_x.py", "notebooks/02_y.py", "xaikit/companion/profiles/mini.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")

    def faked(name: str, profile: str, *, seed: int, arithmetic: str | None, root: Path) -> Path:
        folder = root / "runs" / name / str(seed)
        folder.mkdir(parents=True, exist_ok=True)
        content = a_record({f"{name}.n": (0.5 + seed, "score"), f"{name}.k": (3.0, "count")}, seed, name)
        (folder / "numbers.json").write_text(json.dumps(content))
        return folder

    monkeypatch.setattr(run, "run_notebook", faked)
    return tmp_path


VARIANTS = ((0, None), (2, "native"), (5, "plain"))


def test_accept_then_drift(root: Path) -> None:
    assert accept.drift(a_record({"new": (1.0, "count")}), "mini", root) == accept.Drift(unknown=["new"])
    file = accept.accept("mini", VARIANTS, root=root)
    assert file == root / "data" / "accepted" / "mini.json"
    first = file.read_bytes()
    kept = accept.read("mini", root)["01_x"]
    assert kept["numbers"]["01_x.n"]["value"] == 0.5 and kept["digest"] == "digest 0"
    assert kept["variants"] == ["seed 0, as the profile says", "seed 2, native", "seed 5, plain"]
    assert kept["verdicts"] == {"a.claim": ["holds", "fails", "fails"]}
    accept.accept("mini", VARIANTS, ["01_x"], root=root)
    assert file.read_bytes() == first  # the other notebook's values stayed

    band = kept["numbers"]["01_x.n"]
    record = a_record({"01_x.n": (band["high"] * 1.01, "score"), "01_x.new": (1.0, "count")}, seed=1)
    assert accept.drift(record, "mini", root) == accept.Drift(
        outside=[("01_x.n", band["high"] * 1.01, band["low"], band["high"])],
        unknown=["01_x.new"],
        missing=["01_x.k"],
    )
    good = a_record({"01_x.n": (0.5, "score"), "01_x.k": (3.0, "count")})
    assert accept.drift(good, "mini", root) == accept.Drift(within=["01_x.n", "01_x.k"], same=True)


def test_the_command_accepts_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str]]] = []

    def faked(profile: str, *, names: list[str]) -> Path:
        if "04_none" in names:
            raise ValueError("unknown notebook '04_none'")
        asked.append((profile, list(names)))
        return Path("data/accepted/mini.json")

    monkeypatch.setattr(accept, "accept", faked)
    runner = CliRunner()
    for arguments in ([], ["01_x", "02_y", "--profile", "paper"]):
        done = runner.invoke(app, ["accept", *arguments])
        assert (done.exit_code, done.stdout) == (0, "wrote data/accepted/mini.json\n")
    assert asked == [("mini", []), ("paper", ["01_x", "02_y"])]
    refused = runner.invoke(app, ["accept", "04_none"])
    assert (refused.exit_code, refused.stderr) == (1, "unknown notebook '04_none'\n")


def test_a_number_that_is_not_checked_is_counted_as_such(root: Path) -> None:
    file = root / "data" / "accepted" / "mini.json"
    file.parent.mkdir(parents=True)
    numbers = {"a": {"low": None, "high": None}, "b": {"low": 0.0, "high": 1.0}}
    file.write_text(json.dumps({"01_x": {"digest": "d", "numbers": numbers}}))
    record = a_record({"a": (0.9, "fraction"), "b": (0.5, "fraction")})
    assert accept.drift(record, "mini", root) == accept.Drift(within=["b"], unchecked=["a"])


def test_the_ordinary_run_is_the_first_of_them(root: Path) -> None:
    for variants in (((1, None), (2, None)), ((0, None), (0, "native")), ((0, "native"), (1, None))):
        with pytest.raises(ValueError, match="the seeds must be different, and the first seed 0, the ordinary run"):
            accept.accept("mini", variants, root=root)
    assert not (root / "data").exists()


def test_the_variants_cover_what_machines_do() -> None:
    seeds, arithmetics = zip(*accept.VARIANTS, strict=True)
    assert len(set(seeds)) == len(seeds) >= 8 and len(set(arithmetics)) == len(arithmetics)
    chosen = [ARITHMETICS[name or "portable"] for name in arithmetics]
    assert {values["OMP_NUM_THREADS"] for values in chosen} == {"1", "2"}
    for variable, kinds in (("ATEN_CPU_CAPABILITY", 3), ("ONEDNN_MAX_CPU_ISA", 2), ("MKL_CBWR", 4)):
        assert len({values.get(variable) for values in chosen}) == kinds
