"""Estimates follow from their inputs as the page says, fit the small card, and the page says what the code says."""

import inspect
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from transformers import BlipTextConfig, BlipTextLMHeadModel
from typer.testing import CliRunner

from xaikit.__main__ import app
from xaikit.companion import cost, profiles, scale, tables
from xaikit.companion import sections as counted
from xaikit.companion.cost import CARDS, ONE, Machine, Work, estimate
from xaikit.companion.run import jobs
from xaikit.companion.sections import sections
from xaikit.companion.towers import Decoder
from xaikit.datasets import waterbirds
from xaikit.storage import settings
from xaikit.storage.paths import NOTEBOOKS
from xaikit.studies import caption_driven, texplain_mitigation
from xaikit.texplain.sampling import sample
from xaikit.texplain.translator import Translator, sentence_loss

NOTEBOOK_NAMES = [job.name for job in jobs((), "paper")]


def of_profile(profile: str, notebook: str) -> list[Work]:
    own = settings.read(profiles.FOLDER, profile)
    return sections(notebook, {**own.get("common", {}), **own[notebook]})


# ---- hours ----


def test_a_card_computes_while_cores_decode():
    card = replace(CARDS["H100"], float32=100.0, bfloat16=1_000.0)
    machine = Machine("a", 2, 10, card)
    work = Work("w", {"float32": 100.0 * 3_600, "bfloat16": 350.0 * 3_600}, decoded=3_600, each=50.0)
    # 360,000 / (2 × 100 × 0.5) s and 1,260,000 / (2 × 1,000 × 0.35) s; 3,600 × 50 / 10 s of decoding
    assert estimate(work, machine).hours == pytest.approx(5.0) and estimate(work, machine).bound == "decoding"
    slower = replace(work, each=1.0, alone=3_600)
    assert estimate(slower, machine).hours == pytest.approx(1.0 + 0.5 + 1.0)
    assert estimate(slower, machine).bound == "computing"
    assert estimate([work, slower], machine).hours == pytest.approx(7.5)
    assert estimate(replace(slower, alone=10 * 3_600), machine).bound == "the rest"


def test_cores_without_a_card_do_both():
    work = Work("w", {"float32": 2 * cost.cpu_rate() * 3_600}, decoded=2, each=3_600)
    assert estimate(work, cost.LAPTOP).hours == pytest.approx(1 + 1)


def test_what_is_not_shared_takes_one_card():
    work = Work("w", {"float32": 1e18}, decoded=10_000)
    alone = estimate(work, cost.EIGHT, shared=False)
    assert alone == estimate(work, ONE) and alone.hours == pytest.approx(8 * estimate(work, cost.EIGHT).hours)


def test_sampling_reaches_less_of_a_peak():
    sampled, computed = Work("w", sampling=1e18), Work("w", {"float32": 1e18})
    ratio = estimate(sampled, ONE).hours / estimate(computed, ONE).hours
    assert ratio == pytest.approx(cost.REACHED["float32"] / cost.SAMPLING)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA A100-SXM4-80GB", "A100"), ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA A10", "A10"), ("NVIDIA A1000", None), ("NVIDIA L4", "L4"), ("NVIDIA L40S", "L40S"), ("toaster", None),
    ],
)  # fmt: skip
def test_cards_are_known_by_whole_words(name: str, known: str | None):
    found = cost.card_named(name)
    assert (found and found.name) == known


@pytest.mark.parametrize(
    ("hours", "shown"), [(0.001, "1 min"), (0.55, "33 min"), (1.44, "1.4 h"), (41.2, "41 h"), (2_400.0, "100 days")]
)
def test_hours_have_two_digits(hours: float, shown: str):
    assert cost.shown_hours(hours) == shown


# ---- memory ----


def test_a_step_of_the_translator_keeps_what_autograd_keeps():
    shape, tokens, width, words = Decoder(width=48, layers=3, vocabulary=101), 37, 40, 12
    config = BlipTextConfig(
        vocab_size=101, hidden_size=48, encoder_hidden_size=48, intermediate_size=192, num_hidden_layers=3,
        num_attention_heads=3, bos_token_id=1, eos_token_id=2, sep_token_id=2, pad_token_id=0,
    )  # fmt: skip
    decoder, translator = BlipTextLMHeadModel(config).eval(), Translator(tokens, width, 48)
    decoder.requires_grad_(False)
    own = {p.untyped_storage().data_ptr() for each in (decoder, translator) for p in each.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def measured(batch: int) -> int:
        kept.clear()
        features, sentences = torch.rand(batch, tokens, width), torch.randint(3, 100, (batch, words))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            sentence_loss(decoder, translator(features), sentences, prompt=1, pad=0)
        return sum(each.untyped_storage().nbytes() for key, each in kept.items() if key not in own)

    found = cost.translator_bytes(16, words, "float32", tokens, width, shape)
    assert found == pytest.approx(measured(24) - measured(8), rel=0.2)


@pytest.mark.parametrize("notebook", NOTEBOOK_NAMES)
def test_every_section_of_the_paper_profile_fits_a_card_of_24_gb(notebook: str):
    found = of_profile("paper", notebook)
    assert found
    for section in found:
        assert 1e9 < section.gpu < cost.SMALLEST, section.name
        assert section.host > 0 and estimate(section, ONE).hours > 0, section.name


@pytest.mark.parametrize("notebook", NOTEBOOK_NAMES)
def test_sections_are_headings_of_their_notebook(notebook: str):
    script = (NOTEBOOKS / f"{notebook}.py").read_text(encoding="utf-8")
    for section in of_profile("paper", notebook):
        assert f"\n# ## {section.name}" in script, section.name


@pytest.mark.parametrize("notebook", NOTEBOOK_NAMES)
def test_a_rehearsal_is_little_and_drawn_data_fit(notebook: str):
    assert of_profile("mini", notebook) == []
    small, large = of_profile("rehearsal", notebook), of_profile("paper", notebook)
    assert estimate(small, ONE).hours < estimate(large, ONE).hours


def test_a_larger_batch_does_not_fit():
    own = settings.read(profiles.FOLDER, "paper")
    whole = {**own["common"], **own["02_texplain"]}
    for name in ("translator", "latents"):
        larger = {**whole, name: {**whole[name], "at_once": 512}}
        assert max(section.gpu for section in sections("02_texplain", larger)) > cost.SMALLEST


def test_what_is_counted_at_once_is_what_the_code_takes():
    """A preflight cannot load the modules that say so."""
    assert inspect.signature(sample).parameters["rows"].default == counted.SENTENCES_AT_ONCE
    assert counted.WORD_MAPS == texplain_mitigation.WORD_MAPS and texplain_mitigation.MOST_SENTENCES == 16
    assert max(caption_driven.BATCH_PIXELS // 224**2 // 25, 1) * 25 == counted.CLIP_BATCH
    assert [sum(each) for each in waterbirds.COUNTS.values()] == list(counted.BIRDS.values())


# ---- the page ----


def test_the_page_says_what_the_code_says():
    text = scale.PAGE.read_text(encoding="utf-8")
    assert tables.filled(text, scale.page_tables()) == text, "write it anew with: xaikit cost --write"


def test_a_page_without_a_place_is_named():
    page = "a\n<!-- jobs: written by x -->\nold\n<!-- end of jobs -->\nb\n"
    assert tables.filled(page, {"jobs": "| new |"}) == page.replace("old\n", "\n| new |\n\n")
    with pytest.raises(ValueError, match="'other'"):
        tables.filled(page, {"other": ""})


def test_the_command_prints_the_tables_without_loading_torch():
    result = CliRunner().invoke(app, ["cost"])
    assert result.exit_code == 0 and scale.page_tables()["jobs"] in result.output
    code = "import sys; from xaikit.companion import scale; scale.page_tables(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
