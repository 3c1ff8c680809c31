import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import integrate, optimize

from xaikit import accept, run


def a_record(values: dict[str, tuple[float, str]], seed: int = 0, notebook: str = "01_x") -> dict[str, Any]:
    numbers = [
        {"id": id, "value": value, "unit": unit, "protocol": "exact" if "identity" in id else "corrected"}
        for id, (value, unit) in values.items()
    ]
    return {"notebook": notebook, "seed": seed, "numbers": numbers}


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
    made = accept.bands(records(*({id: (each[i], "fraction") for id, each in seen.items()} for i in range(4))))
    squared = {id: np.var(each, ddof=1) for id, each in seen.items()}
    typical = np.median(list(squared.values()))
    for id, each in seen.items():
        s = math.sqrt((3 * squared[id] + 4 * typical) / 7)
        half = t_quantile(0.9995, 7) * s * math.sqrt(1 + 1 / 4)
        assert made[id]["value"] == each[0]
        assert made[id]["low"] == pytest.approx(np.mean(each) - half, rel=1e-4)
        assert made[id]["high"] == pytest.approx(np.mean(each) + half, rel=1e-4)
        assert (made[id]["unit"], made[id]["notebook"]) == ("fraction", "01_x")


def test_bands_hold_all_seeds_even_a_lone_outlier() -> None:
    quiet = {f"quiet{i}": [0.5 + 1e-6 * i, 0.5] for i in range(9)}
    seen = {**quiet, "wild": [0.0, 1.0]}
    made = accept.bands(records(*({id: (each[i], "fraction") for id, each in seen.items()} for i in range(2))))
    for id, each in seen.items():
        assert made[id]["low"] <= min(each) and max(each) <= made[id]["high"]


def test_numbers_that_no_seed_changes() -> None:
    same = {
        "count": (1234567.0, "count"),
        "identity": (0.169014, "fraction"),
        "saturated": (1.0, "fraction"),
        "alone": (2.0, "score"),
        "moves": (0.1, "fraction"),
    }
    made = accept.bands(records(same, {**same, "moves": (0.3, "fraction")}))
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


def test_seeds_must_agree_on_the_numbers() -> None:
    with pytest.raises(ValueError, match="01_x records other numbers at seed 1 than at seed 0: a, b"):
        accept.bands(records({"a": (1.0, "count")}, {"b": (1.0, "count")}))
    with pytest.raises(ValueError, match="at least two seeds"):
        accept.bands(records({"a": (1.0, "count")}))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two notebooks whose runs are faked: the value of a number is its seed's."""
    for name in ("notebooks/01_x.py", "notebooks/02_y.py", "xaikit/profiles/mini.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")

    def faked(name: str, profile: str, *, seed: int, root: Path) -> Path:
        folder = root / "runs" / name / str(seed)
        folder.mkdir(parents=True, exist_ok=True)
        content = a_record({f"{name}.n": (0.5 + seed, "score"), f"{name}.k": (3.0, "count")}, seed, name)
        (folder / "numbers.json").write_text(json.dumps(content))
        return folder

    monkeypatch.setattr(run, "run_notebook", faked)
    return tmp_path


def test_accept_then_drift(root: Path) -> None:
    assert accept.drift(a_record({"new": (1.0, "count")}), "mini", root) == accept.Drift(unknown=["new"])
    file = accept.accept("mini", [1, 2, 0], root=root)
    assert file == root / "data" / "accepted" / "mini.json"
    first = file.read_bytes()
    assert accept.read("mini", root)["01_x.n"]["value"] == 0.5
    accept.accept("mini", [0, 1, 2], ["01_x"], root=root)
    assert file.read_bytes() == first  # the other notebook's values stayed

    band = accept.read("mini", root)["01_x.n"]
    record = a_record({"01_x.n": (band["high"] * 1.01, "score"), "01_x.new": (1.0, "count")})
    assert accept.drift(record, "mini", root) == accept.Drift(
        outside=[("01_x.n", band["high"] * 1.01, band["low"], band["high"])],
        unknown=["01_x.new"],
        missing=["01_x.k"],
    )
    good = a_record({"01_x.n": (0.5, "score"), "01_x.k": (3.0, "count")})
    assert accept.drift(good, "mini", root) == accept.Drift(within=["01_x.n", "01_x.k"])


def test_the_ordinary_seed_is_one_of_them(root: Path) -> None:
    for seeds in ([1, 2], [0, 0]):
        with pytest.raises(ValueError, match="the seeds must be different, and 0, the ordinary run, among them"):
            accept.accept("mini", seeds, root=root)
    assert not (root / "data").exists()
