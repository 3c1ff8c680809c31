"""An audit that was stopped goes on where it was, and one in shards says of all what its shards say of their own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from squares import run, written

from xaikit.audit import load_classifier, questions, read_concepts
from xaikit.audit import run as run_module
from xaikit.audit.language import load_language
from xaikit.audit.parts import Parts
from xaikit.audit.photographs import list_pictures, read_listed
from xaikit.audit.questions import Effect, classify, counted
from xaikit.audit.run import _digests
from xaikit.storage.paths import ROOT

CONCEPTS = """
[background]
change = "background"
region = "object"

[colour]
change = "colour"
region = "object"

[word]
change = "text"
text = "DARK"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "concepts.toml").write_text(CONCEPTS)
    return written(tmp_path)


def report(folder: Path) -> dict[str, str]:
    """All files of an audit, but for the seconds that it took."""
    found = {each.name: each.read_text() for each in (folder / "report").iterdir() if each.is_file()}
    found["report.html"] = re.sub(r"\d+ s, seed", "s, seed", found["report.html"])
    found["audit.json"] = re.sub(r'"seconds": [\d.]+', "", found["audit.json"])
    return found


# --- going on ---------------------------------------------------------------------------------------------------------


def test_an_audit_that_was_stopped_goes_on_and_ends_as_if_it_had_not_been(folder: Path, monkeypatch) -> None:
    options = {"concepts": folder / "concepts.toml", "seed": 3}
    run(folder, **options)
    whole, effect, asked = report(folder), questions._effect, []
    for file in (folder / "report").iterdir():
        file.unlink()

    def stopping(model, question, *rest) -> Effect:
        if len(question.seen) == 80:  # a mend asks of fewer
            asked.append(question.concept.name)
        if len(asked) == 3 and stop:
            raise KeyboardInterrupt
        return effect(model, question, *rest)

    monkeypatch.setattr(questions, "_effect", stopping)
    stop = True
    with pytest.raises(KeyboardInterrupt):
        run(folder, **options)
    assert asked == ["background", "colour", "word"]
    assert [each.name for each in (folder / "report").iterdir()] == [".parts"]
    stop = False
    asked.clear()
    run(folder, **options)
    assert asked == ["word"] and report(folder) == whole and not (folder / "report" / ".parts").exists()


def test_that_the_page_of_another_audit_is_replaced_is_said_before_it_is(folder: Path, capsys) -> None:
    run(folder, concepts=folder / "concepts.toml", quick=True)
    first = json.loads((folder / "report" / "audit.json").read_text())["command"]
    assert "replaces" not in capsys.readouterr().err
    run(folder, concepts=folder / "concepts.toml", quick=True)
    assert "replaces" not in capsys.readouterr().err  # the same one again
    run(folder, concepts=folder / "concepts.toml", quick=True, seed=4)
    assert f"which this one replaces: {first}" in capsys.readouterr().err
    run(folder, concepts=folder / "concepts.toml", quick=True, seed=5, shards=2, shard=0)
    assert "replaces" not in capsys.readouterr().err  # a part alone writes no page


def test_what_reads_the_pictures_counts_by_its_weights() -> None:
    one, same = load_language(["mini"], "mini"), load_language(["mini"], "mini")
    assert _digests(one) == _digests(same) and len(_digests(one)) == 4 and not _digests(None)
    for part in (one.clips["clip-vit-mini"].image_encoder, one.captioner.language.decoder):
        before = _digests(one)
        with torch.no_grad():
            next(part.parameters()).view(-1)[0] += 1
        assert sum(before[name] != digest for name, digest in _digests(one).items()) == 1


@pytest.mark.parametrize("what", ["seed", "concepts", "classifier", "masks", "damage"])
def test_what_was_made_from_something_else_is_not_taken(folder: Path, monkeypatch, what: str) -> None:
    options, effect, asked = {"concepts": folder / "concepts.toml", "quick": True}, questions._effect, []

    def stopping(model, question, *rest) -> Effect:
        asked.append(question.concept.name)
        if question.concept.name == "word" and stop:
            raise KeyboardInterrupt
        return effect(model, question, *rest)

    monkeypatch.setattr(questions, "_effect", stopping)
    stop = True
    with pytest.raises(KeyboardInterrupt):
        run(folder, **options)
    stop = False
    asked.clear()
    if what == "seed":
        options["seed"] = 1
    elif what == "concepts":
        (folder / "concepts.toml").write_text(CONCEPTS.replace("DARK", "NIGHT"))
    elif what == "classifier":
        (folder / "mine.py").write_text((folder / "mine.py").read_text().replace("4].mean", "3].mean"))
    elif what == "masks":
        os.utime(folder / "masks" / "dark" / "0.png", (1, 1))
    else:
        for part in (folder / "report" / ".parts").glob("change-background*"):
            part.write_bytes(part.read_bytes()[:-9])
        with pytest.warns(UserWarning, match="damaged"):
            run(folder, **options)
        assert asked == ["background", "word"]
        return
    run(folder, **options)
    assert asked == ["background", "colour", "word"]


def test_a_part_comes_back_as_it_was(tmp_path: Path) -> None:
    flips, other = np.array([True, False, True]), np.zeros(3, bool)
    found = [Effect("a", "thing", np.arange(3), flips, {"b c": other}, {4: 2}, seed=7), Effect("d", "text", why="few")]
    parts = Parts(tmp_path, "key")
    assert parts.keep("some name/of it", lambda: (found, {"x": None, 3: [1.5, float("inf")]}))[0] is found
    (first, second), rest = parts.keep("some name/of it", lambda: pytest.fail("it is there"))
    assert rest == {"x": None, 3: [1.5, float("inf")]} and second.why == "few" and not len(second.rows)
    assert first.net == found[0].net and first.towards == {4: 2} and first.rows.dtype == found[0].rows.dtype
    assert (first.controls["b c"] == other).all()
    assert Parts(tmp_path, "another").keep("some name/of it", lambda: 5) == 5


# --- shards -----------------------------------------------------------------------------------------------------------


def test_four_processes_say_of_all_what_the_shards_say_of_their_own(folder: Path, monkeypatch) -> None:
    options = {"concepts": folder / "concepts.toml", "shards": 4}
    made, make = [], run_module.counted_shard
    monkeypatch.setattr(run_module, "counted_shard", lambda *own, **how: made.append(1) or make(*own, **how))
    assert run(folder, **options, shard=2) is None and run(folder, **options, shard=2) is None and len(made) == 1
    assert not (folder / "report" / "report.html").exists()
    (there,) = (folder / "report" / ".parts").glob("*.safetensors")
    before = there.stat().st_ino
    there.with_suffix(".lock").touch()  # as a killed process leaves one
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "4", "-m", "xaikit", "audit"]
    command += [f"{folder / 'mine.py'}:model", "--images", str(folder / "pictures"), "-o", str(folder / "report")]
    for name in ("masks", "classes.txt", "groups.csv", "captions.csv", "concepts.toml"):
        command += [f"--{name.partition('.')[0]}", str(folder / name)]
    variables = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--shards", "4"], capture_output=True, text=True, env=variables, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("another one writes the page") == 3 and "It uses background" in done.stdout
    assert there.stat().st_ino == before
    by_processes = report(folder)

    found = run(folder, **options)
    assert len(made) == 1 and report(folder) == by_processes  # nothing was computed again
    assert len(found.pictures) == 80 and len(found.pictures.seen) == 20 == len(found.logits)
    assert sorted(pd.read_csv(folder / "report" / "answers.csv")["file"]) == sorted(
        each.relative_to(folder / "pictures").as_posix() for each in (folder / "pictures").rglob("*.png")
    )
    assert any("4 shards" in note for note in found.pictures.notes)
    assert len(found.mends) == 1 and found.maps is not None and max(found.maps.rows) < 20

    loaded = load_classifier(f"{folder / 'mine.py'}:model", ["dark", "bright"])
    listed, concepts = list_pictures(folder / "pictures", names=loaded.names), read_concepts(folder / "concepts.toml")
    totals = {each.name: np.zeros(2, int) for each in concepts}  # pictures and flips
    ids: list[str] = []
    for number in range(4):
        own = read_listed(listed.shard(number, 4), loaded.look, masks=folder / "masks")
        assert np.bincount(own.labels).tolist() == [10, 10]
        ids += own.ids
        answers = classify(loaded.model, own.seen).argmax(1)
        for each in counted(loaded.model, own.seen, concepts, answers=answers):
            totals[each.concept] += [len(each.rows), each.flips.sum()]
    assert list(found.pictures.ids) == ids
    table = found.table().set_index("concept")
    for name, (count, flips) in totals.items():
        assert table["pictures"][name] == count and table["flips"][name] == pytest.approx(flips / count)
    background = next(each for each in found.effects if each.concept == "background")
    other = background.controls["from the same answer"]
    more, less = (background.flips & ~other).sum(), (~background.flips & other).sum()
    assert background.p == pytest.approx(stats.binomtest(more, more + less, alternative="greater").pvalue)
    assert background.adjusted == pytest.approx(min(1, 3 * background.p)) and background.claimed
    held = json.loads((folder / "report" / "audit.json").read_text())
    assert held["pictures"] == 80 and held["accuracy"]["overall"]["n"] == 80


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shards": 9}, "80 pictures make no 9 shards of 10"),
        ({"shards": 2, "shard": 2}, "Shard 2 of 2"),
        ({"shards": 2}, "--concepts"),
        ({"shards": 0}, "there has to be one"),
    ],
)
def test_shards_that_cannot_be_are_refused(folder: Path, options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        run(folder, **options)


def test_a_region_that_no_shard_has_and_processes_without_shards_are_refused(folder: Path, monkeypatch) -> None:
    (folder / "concepts.toml").write_text("[tail]\nchange = 'thing'\nregion = 'tail'\n")
    with pytest.raises(ValueError, match=r"'tail'.*object"):
        run(folder, concepts=folder / "concepts.toml", shards=2)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match=r"--shards, 3 or more"):
        run(folder)
