"""One audit from a file and a folder to a page: what it says, that it is whole, and what is refused."""

import json
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx_files
import pandas as pd
import pytest
import torch
from PIL import Image
from squares import SIZE, run, written
from torch import Tensor, nn
from typer.testing import CliRunner

from xaikit.__main__ import app
from xaikit.audit import Concept, Loaded, Pictures, Seen, audit, read_concepts, readings
from xaikit.audit.concepts import ENOUGH, EXAMPLE, REGIONS, concepts_for
from xaikit.audit.run import run_audit
from xaikit.models.preprocessing import Preprocessed

VOID = {"meta", "img", "br", "link", "line", "circle"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path)


class Page(HTMLParser):
    """What a page asks of others, and its pictures without words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.outside, self.silent, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes) -> None:
        own = dict(attributes)
        self.outside += [own[key] for key in ("src", "href") if key in own and not own[key].startswith(("data:", "#"))]
        if tag == "img" and not own.get("alt"):
            self.silent.append(own)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self.open.pop() == tag


def page_shows(page: str, concept: str) -> int:
    """How many pictures of a change there are on a page."""
    return len(re.findall(rf'alt="{concept}, [^"]*, the change"', page))


def test_a_planted_cue_is_found_shown_and_mended(folder: Path) -> None:
    found = run(folder)
    assert [each.concept for each in found.claimed] == ["background"]
    first, second = found.summary()
    assert first.startswith("It uses background: changing it turns") and second.startswith("Look at ")
    assert all(found.pictures.ids[row] in second for row in found.look_at(found.claimed[0])[:3])
    (mended,) = found.mends
    assert mended.after.net.value < 0.2 < mended.before.net.value and mended.right_after.value > 0.9
    ground, day = found.groupings
    assert ground.adjusted == 2 * ground.p and day.adjusted >= day.p  # two columns, by Holm
    assert ground.p < 0.01 < day.p and ground.accuracy.worst_group in ("dark, high", "bright, low")
    assert found.keywords["word"][0] in ("low", "high") or found.keywords["p"].min() > 0.05
    assert found.variances.set_index("column")["p"]["ground"] < 0.01
    assert found.variances.set_index("column")["adjusted p"]["ground"] == 2 * found.variances["p"].min()
    files = {each.name for each in (folder / "report").iterdir()}
    assert files == {"report.html", "audit.json", "effects.csv", "removals.csv", "answers.csv"}


def test_the_page_is_whole_and_asks_nobody(folder: Path) -> None:
    found = run(folder)
    text = (folder / "report" / "report.html").read_text()
    page = Page(text)
    assert not page.outside and not page.silent and not page.open and len(text) < 8e6
    headings = ("What it sees", "where it is worst", "net of their controls", "taken away", "The methods of the papers")
    for heading in (*headings, "Which to trust", "What to do", "Limits"):
        assert heading in text, heading
    assert (
        found.loaded.digest in text and "xaikit audit" in text and "nan" not in re.sub('base64,[^"]*', "", text).lower()
    )
    held = json.loads((folder / "report" / "audit.json").read_text())
    assert held["summary"] == found.summary() and len(held["effects"]) == len(found.effects)
    answers = pd.read_csv(folder / "report" / "answers.csv")
    assert (answers["label"] == answers["answer"]).mean() == found.by_class.overall.value
    assert (
        answers["turned by background"].sum() == next(e for e in found.effects if e.concept == "background").flips.sum()
    )


def test_the_same_command_gives_the_same_numbers(folder: Path) -> None:
    first, second = (run(folder, quick=True) for _ in range(2))
    pd.testing.assert_frame_equal(first.table(), second.table())
    assert first.removals == () and first.maps is None and "quick" in first.notes[0]


def test_nothing_found_says_what_could_have_been(folder: Path) -> None:
    text = (folder / "mine.py").read_text().replace("-9.0", "0.0").replace("9.0", "0.0").replace("5.5", "1.0")
    (folder / "mine.py").write_text(text)
    (folder / "concepts.toml").write_text("[ground]\nchange = 'background'\nregion = 'object'\n")
    found = run(folder, quick=True, concepts=folder / "concepts.toml")
    assert not found.claimed
    nothing, could, rest = found.summary()
    assert (
        nothing.startswith("Nothing found")
        and re.search(r"an effect on \d+% of the answers", could)
        and "not asked" in rest
    )
    assert "Nothing was found that would have to be mended" in found.to_html()


def test_without_labels_masks_and_names_what_can_be_said_is_said(folder: Path) -> None:
    flat = folder / "flat"
    flat.mkdir()
    for file in (folder / "pictures").rglob("*.png"):
        file.rename(flat / f"{file.parent.name}-{file.name}")
    found = run_audit(f"{folder / 'mine.py'}:model", flat, folder / "report")
    assert found.by_class is None and found.calibration is None and not found.groupings
    assert "class 0" in (folder / "report" / "answers.csv").read_text()
    assert "Not known: the pictures have no labels" in (folder / "report" / "report.html").read_text()


def test_an_audit_of_onnx_says_what_it_cannot_do(folder: Path) -> None:
    pytest.importorskip("onnxruntime", reason="it is in no lock: pip install 'xaikit[onnx]' brings it")
    layer, looks = nn.Linear(3 * SIZE * SIZE, 2), torch.zeros(3, SIZE, SIZE)
    looks[:, :4] = 9 / looks[:, :4].numel()  # as the function of one's own does, of the ground alone
    with torch.no_grad():
        layer.weight.copy_(torch.stack([-looks, looks]).flatten(1))
        layer.bias.copy_(torch.tensor([4.5, -4.5]))
    (folder / "mine.onnx").write_bytes(onnx_files.linear(layer, ("n", 3, SIZE, SIZE)))
    found = run_audit(
        str(folder / "mine.onnx"), folder / "pictures", folder / "report", masks=folder / "masks",
        classes=folder / "classes.txt", preprocessing="unit",
    )  # fmt: skip
    assert [each.concept for each in found.claimed] == ["background"] and found.maps.method == "RISE"
    assert any("no gradients" in note for note in found.notes) and "no linear layer" in found.mends[0].why
    assert not found.maps.untrained and found.maps.why("object")
    text = (folder / "report" / "report.html").read_text()
    assert "this one is" not in text and found.loaded.digest in text


def test_the_command_line(folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, ["audit", "mine.py:model", "--images", "pictures", "--masks", "masks", "--quick"])
    assert done.exit_code == 0 and "It uses background" in done.output and Path("report/report.html").is_file()
    assert CliRunner().invoke(app, ["audit", "--init"]).exit_code == 0
    assert CliRunner().invoke(app, ["audit", "--init"]).exit_code == 1
    concepts = read_concepts(Path("concepts.toml"))
    assert [each.name for each in concepts] == ["background", "colours", "word", "object"] and concepts[3].expected
    assert CliRunner().invoke(app, ["audit", "mine.py:model"]).exit_code == 2
    assert CliRunner().invoke(app, ["audit", "mine.py:nothing", "--images", "pictures"]).exit_code == 1


# --- bad input --------------------------------------------------------------------------------------------------------


class Gives(nn.Module):
    def __init__(self, logits) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images)


def asked(logits, count: int = 12, **options):
    pixels = torch.randint(256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pictures = Pictures(Seen(pixels), tuple(f"{n}.png" for n in range(count)), np.full(count, -1))
    return audit(Loaded.of(Preprocessed(Gives(logits), 8, (0.0,) * 3, (1.0,) * 3)), pictures, quick=True, **options)


def test_few_pictures_one_class_and_logits_that_are_no_numbers_are_refused() -> None:
    def two(images: Tensor) -> Tensor:
        return torch.stack([images.mean((1, 2, 3)), 1 - images.mean((1, 2, 3))], 1)

    with pytest.raises(ValueError, match=r"3 pictures.*give 10"):
        asked(two, 3)
    with pytest.raises(ValueError, match="two classes or more"):
        asked(lambda images: images.mean((1, 2, 3))[:, None])
    with pytest.raises(ValueError, match=r"12 of 12 pictures \(0\.png, …\) are NaN"):
        asked(lambda images: two(images) * float("nan"))
    with pytest.raises(ValueError, match="no concept"):
        asked(two, concepts=[])
    with pytest.raises(ValueError, match="no masks of a region 'tail'"):
        asked(two, concepts=[Concept("tail", "thing", "tail")])
    one = asked(lambda images: two(images) * 0 + torch.tensor([1.0, 0.0]))
    assert "all answers are the same" in one.summary()[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no table"),
        ("change = 'thing'", "outside of a table"),
        ("[a]\nregion = 'x'", "what to change"),
        ("[a]\nchange = 'thing'\ncolour = 'red'", "'colour' is unknown"),
        ("[a]\nchange = 'thing'", r"\[a\].*region"),
        ("[a]\nchange = 'patch'\npicture = 'none.png'", "none.png"),
        ("[a]\nchange = 'text'\ntext = 'x'\nsize = 3", "size"),
        ("[a]\nchange = 'text'\ntext = 'x'\nplace = 'top'", "place"),
        ("[a\n", "no TOML"),
    ],
)
def test_concepts_that_are_none_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "concepts.toml").write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        read_concepts(tmp_path / "concepts.toml")
    assert "\n" not in str(caught.value)


def test_a_patch_comes_from_a_file_beside_the_concepts(tmp_path: Path) -> None:
    Image.new("RGBA", (5, 3), (255, 0, 0, 128)).save(tmp_path / "logo.png")
    (tmp_path / "concepts.toml").write_text("[logo]\nchange = 'patch'\npicture = 'logo.png'\nsize = 0.1\n")
    (logo,) = read_concepts(tmp_path / "concepts.toml")
    assert logo.patch.shape == (4, 3, 5) and logo.patch[:, 0, 0].tolist() == [255, 0, 0, 128]


def test_what_words_say_is_on_the_page_and_no_claim_rests_on_it(folder: Path, monkeypatch) -> None:
    (folder / "concepts.toml").write_text(
        '[background]\nchange = "background"\nregion = "object"\n[water]\ntexts = ["a photo of a bird on water"]\n'
        '[bright]\npictures = "pictures/bright"\nwithout = "pictures/dark"\n[odd]\ntexts = ["a zeugma"]\n'
    )
    monkeypatch.setattr(readings, "STEPS", 4)
    found = run(folder, concepts=folder / "concepts.toml", clip=["mini"], captioner="mini")
    assert [each.concept for each in found.effects] == ["background"] == [each.concept for each in found.claimed]
    assert list(found.readings.concepts["concept"]) == ["water", "bright"] and "zeugma" in found.readings.missing["odd"]
    assert page_shows(found.to_html(), "background") and not page_shows(found.to_html(), "water")
    assert len(found.readings.words) and "--clip mini --captioner mini" in found.command
    page = (folder / "report" / "report.html").read_text(encoding="utf-8")
    assert not Page(page).outside and not Page(page).silent and not Page(page).open
    for said in ("Concepts in words and by pictures", "TExplain, paper 2", "words of TExplain", "zeugma"):
        assert said in page
    told = json.loads((folder / "report" / "audit.json").read_text(encoding="utf-8"))["readings"]
    assert [row["concept"] for row in told["concepts"]] == ["water", "bright"] and "odd" in told["not asked"]


def test_concepts_that_no_change_stands_for_are_asked_alone_too(folder: Path) -> None:
    (folder / "concepts.toml").write_text('[bright]\npictures = "pictures/bright"\nwithout = "pictures/dark"\n')
    found = run(folder, concepts=folder / "concepts.toml")
    assert found.summary() == ["Nothing could be asked: no concept has a change."] and not found.effects
    assert len(found.readings.concepts) == 1 and "Nothing could be asked" in found.to_html()


def test_of_every_change_one_picture_is_shown_and_of_what_is_used_three(folder: Path) -> None:
    word = 'change = "text"\ntext = "SALE"\nplace = "upper left"\n'
    (folder / "concepts.toml").write_text(f'[background]\nchange = "background"\nregion = "object"\n["a word"]\n{word}')
    page = run(folder, concepts=folder / "concepts.toml").to_html()
    assert (page_shows(page, "background"), page_shows(page, "a word")) == (3, 1)


def test_what_is_asked_where_nobody_says_what_is_of_what_many_pictures_have() -> None:
    masks = {f"r{n}": torch.zeros(30, 8, 8, dtype=torch.bool) for n in range(REGIONS + 2)}
    for place, mask in enumerate(masks.values()):
        mask[: ENOUGH - 1 + place] = True
    names = {each.region for each in concepts_for(Seen(torch.zeros(30, 3, 8, 8, dtype=torch.uint8), masks))}
    assert names & masks.keys() == {f"r{n}" for n in range(2, REGIONS + 2)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "change" in EXAMPLE
