"""Letters that a font lacks are named once, and no other warning is lost."""

import warnings

import matplotlib.pyplot as plt
import pytest

from xaikit.companion.glyphs import missing_glyphs_named
from xaikit.companion.record import Record


def test_a_recorded_figure_names_what_its_font_lacks_in_one_sentence(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XAIKIT_OUT", str(tmp_path))
    record = Record("01_caption_driven", "mini", 0)
    figure, ax = plt.subplots(figsize=(2, 2))
    ax.set_title("\u732b in the \u6d77, caf\u00e9")
    ax.set_xlabel("\u732b")
    with pytest.warns(UserWarning) as said:
        record.figure("fig1", figure, item="Figure 1", alt="Two letters that no font here has.")
    plt.close(figure)
    assert [str(each.message) for each in said] == [
        "The font has no \u732b \u6d77: boxes stand in figure fig1 for 2 signs."
    ]
    assert {file.name for file in tmp_path.iterdir()} == {"fig1.png", "fig1.pdf", "unfinished.json"}


def test_other_warnings_pass() -> None:
    with pytest.warns(DeprecationWarning, match="^something else$"), missing_glyphs_named("a"):
        warnings.warn("something else", DeprecationWarning, stacklevel=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with missing_glyphs_named("a"):
            pass
