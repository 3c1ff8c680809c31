"""What words say of a classifier: each table beside a slow, obvious one, with a planted answer and with none."""

import copy
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import stats
from torch import Tensor, nn

from xaikit import ablate, decompose, mean_contributions
from xaikit.audit import Concept, Language, Loaded, Pictures, Seen, load_classifier, load_language, read_concepts
from xaikit.audit import readings as module
from xaikit.audit.last_layer import inputs_of, last_layer
from xaikit.audit.maps import MISSING, shuffled
from xaikit.audit.questions import classify
from xaikit.audit.readings import by_pictures, by_texts, readings_of
from xaikit.models.clip import Clip
from xaikit.models.preprocessing import Preprocessed
from xaikit.models.tokens import LossWarning
from xaikit.storage.paths import WEIGHTS
from xaikit.studies.zoo import network
from xaikit.studies.zoo_tasks import TASKS, deal

SEED = 3


@pytest.fixture(scope="module")
def language() -> Language:
    return load_language(["mini"], "mini")


@pytest.fixture(scope="module")
def birds():
    return deal(TASKS["birds"], 120, 0, "test")


class Reads(nn.Module):
    """Two logits, by the mean of the picture's upper rows (the sky or the far shore) or of its red."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.head = what, nn.Linear(3, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[-9.0, 0.3, 0.1], [9.0, -0.3, 0.2]]))
            self.head.bias.copy_(torch.tensor([4.0, -4.0]))

    def forward(self, images: Tensor) -> Tensor:
        below = images[:, :, 40:60, :10]
        first = (below[:, 2] - below[:, 1]).mean((1, 2)) + 0.5 if self.what == "ground" else images[:, 0].mean((1, 2))
        return self.head(torch.stack([first, images.std((1, 2, 3)), images[:, 1].mean((1, 2))], 1))


def classifier(what: str = "ground") -> Loaded:
    return Loaded.of(Preprocessed(Reads(what), 64, (0.0,) * 3, (1.0,) * 3), ("a", "b"))


def pictures_of(dealt, captions: tuple[str, ...] = ()) -> Pictures:
    ids = tuple(f"{row}.png" for row in range(len(dealt.codes)))
    return Pictures(Seen(dealt.pixels()), ids, np.full(len(ids), -1), captions=captions)


def in_words(*names: str) -> list[Concept]:
    return [
        Concept(factor.name, texts=factor.texts[1:], against=factor.texts[:1])
        for factor in TASKS["birds"].factors
        if factor.name in names
    ]


# --- concepts in words ------------------------------------------------------------------------------------------------


def test_the_share_of_a_text_is_that_of_an_ordinary_regression_within_classes(birds, language: Language) -> None:
    clip, seen = next(iter(language.clips.values())), Seen(birds.pixels())
    concepts, labels = in_words("background", "colour"), birds.labels.numpy()
    logits = torch.randn(120, 3, generator=torch.Generator().manual_seed(0))
    table = by_texts(seen, concepts, clip, logits, logits, labels, seed=SEED)
    with torch.no_grad():
        embedded = F.normalize(clip.image_encoder(seen.images(slice(None))), dim=1).double().numpy()
    margins = logits.double().numpy() - logits.double().numpy().mean(1, keepdims=True)
    for row, concept in zip(table.to_dict("records"), concepts, strict=True):
        with_it, without = (clip.encode_texts(list(texts)).mean(0) for texts in (concept.texts, concept.against))
        score = embedded @ (with_it - without).double().numpy()
        residual, explained = 0.0, 0.0
        dummies = np.stack([labels == label for label in np.unique(labels)], 1).astype(float)
        for column in margins.T:
            only, both = dummies, np.column_stack([dummies, score])
            errors = [((column - x @ np.linalg.lstsq(x, column, rcond=None)[0]) ** 2).sum() for x in (only, both)]
            residual, explained = residual + errors[0], explained + errors[0] - errors[1]
        assert row["found"] == pytest.approx(explained / residual, rel=1e-4)
        assert row["why"] and row["p"] > 0.05  # of logits at random nothing is found


def test_what_the_logits_follow_is_found_and_what_they_ignore_is_not(birds, language: Language) -> None:
    clip, seen = next(iter(language.clips.values())), Seen(birds.pixels())
    concepts = in_words("background", "colour", "count")
    column = TASKS["birds"].names.index("background")
    margin = torch.from_numpy(birds.codes[:, column] * 2.0 - 1)[:, None]
    noise = torch.randn(120, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits = margin * torch.tensor([-1.0, 1.0]) + 0.5 * noise
    table = by_texts(seen, concepts, clip, logits, noise, birds.labels.numpy(), seed=SEED).set_index("concept")
    assert not table.loc["background", "why"] and table.loc["background", "p"] <= 0.05
    assert (table.loc[["colour", "count"], "why"] == "no more than by chance").all()
    same = by_texts(seen, concepts, clip, logits, logits, birds.labels.numpy(), seed=SEED).set_index("concept")
    assert same.loc["background", "why"] == module.SAME  # what shuffled weights do as well is no finding


def test_where_no_weights_can_be_shuffled_a_control_is_missing(birds, language: Language) -> None:
    clip, seen = next(iter(language.clips.values())), Seen(birds.pixels())
    column = TASKS["birds"].names.index("background")
    margin = torch.from_numpy(birds.codes[:, column] * 2.0 - 1)[:, None] * torch.tensor([-1.0, 1.0])
    (row,) = by_texts(seen, in_words("background"), clip, margin, None, birds.labels.numpy()).to_dict("records")
    assert row["p"] <= 0.05 and row["why"] == MISSING and np.isnan(row["p, weights shuffled"])


def test_directions_at_random_are_found_as_often_as_chance_says(birds, language: Language, monkeypatch) -> None:
    """Logits that follow a random direction of CLIP are no reason to call any text used."""
    clip, seen = next(iter(language.clips.values())), Seen(birds.pixels())
    given = module._embedded(clip, seen, "cpu")
    monkeypatch.setattr(module, "_embedded", lambda *_: given)
    embedded, found = given.double(), []
    for seed in range(40):
        draw = torch.Generator().manual_seed(seed)
        along = (embedded - embedded.mean(0)) @ torch.randn(embedded.shape[1], 1, generator=draw, dtype=torch.float64)
        logits = torch.cat([-along, along], 1)
        noise = torch.randn(120, 2, generator=draw, dtype=torch.float64)
        table = by_texts(seen, in_words("background"), clip, logits, noise, np.zeros(120, int), seed=seed)
        found.append(table["p"][0] <= 0.05)
    assert stats.binom.sf(sum(found) - 1, 40, 0.05) > 0.001


# --- concepts by pictures ---------------------------------------------------------------------------------------------


def test_the_cosine_of_pictures_is_that_of_a_ridge_probe_and_a_class(birds) -> None:
    loaded = classifier()
    has = torch.from_numpy(birds.codes[:, TASKS["birds"].names.index("background")] == 1)
    concept = Concept("water", shown=birds.pixels()[has], without=birds.pixels()[~has])
    other = shuffled(loaded.model, SEED)
    (row,) = by_pictures(loaded.model, other, [concept], np.array([0, 1]), seed=SEED).to_dict("records")
    images = torch.cat([concept.shown, concept.without]).float() / 255
    last = last_layer(loaded.model)
    features = inputs_of(loaded.model, last, lambda rows: images[rows], len(images), (64, 64), "cpu").double()
    x = features / features.std(0)
    x = x - x.mean(0)
    y = torch.cat([torch.ones(len(concept.shown)), -torch.ones(len(concept.without))]).double()
    scatter = x.T @ x / len(x)
    probe = torch.linalg.solve(scatter + 0.1 * scatter.diagonal().mean() * torch.eye(3), x.T @ (y - y.mean()) / len(x))
    weight = (last.weight.double() - last.weight.double().mean(0)) * features.std(0)
    assert row["found"] == pytest.approx(F.cosine_similarity(probe[None], weight).abs().max().item(), rel=1e-6)
    assert row["found"] > 0.9 and row["p"] <= 0.05


def test_pictures_of_nothing_are_nothing(birds) -> None:
    loaded, pixels = classifier(), birds.pixels()
    other = shuffled(loaded.model, SEED)
    found = []
    for seed in range(40):
        order = torch.randperm(120, generator=torch.Generator().manual_seed(seed))
        concept = Concept("nothing", shown=pixels[order[:60]], without=pixels[order[60:]])
        found.append(by_pictures(loaded.model, other, [concept], np.array([0, 1]), seed=seed)["p"][0] <= 0.05)
    assert stats.binom.sf(sum(found) - 1, 40, 0.05) > 0.001


# --- paper 1 ----------------------------------------------------------------------------------------------------------


def test_surgery_keeps_what_clips_own_maps_hold_and_not_what_an_untrained_network_does(language: Language) -> None:
    pictures = pictures_of(deal(TASKS["digits"], 200, 0, "test"))
    factors = {each.name: each for each in TASKS["digits"].factors}
    concepts = [
        Concept(name, texts=factors[name].texts[1:], against=factors[name].texts[:1]) for name in ("value", "colour")
    ]
    clip = language.clips["clip-resnet-mini"].image_encoder
    before = {name: tensor.clone() for name, tensor in clip.state_dict().items()}
    tower, found = copy.deepcopy(clip), {}
    models = {"its own": nn.Sequential(tower, nn.Linear(tower.model.output_dim, 2)), "untrained": network("resnet", 0)}
    for name, model in models.items():
        other = shuffled(model, SEED)
        rows = module._surgery(model, other, pictures.seen, concepts, language, "cpu", SEED)
        found[name] = pd.DataFrame(rows, columns=module.SURGERY).set_index("concept")
    own, none = found["its own"].loc["value"], found["untrained"].loc["value"]
    assert not own["why"] and own["kept"] == own["of CLIP's own maps"] and own["low"] > own["weights shuffled"]
    assert none["why"] == module.SAME and none["of CLIP's own maps"] == own["kept"]
    assert found["its own"].loc["colour", "why"].startswith("CLIP does not read it")  # lost by surgery itself
    assert all(torch.equal(before[name], tensor) for name, tensor in clip.state_dict().items())


def test_surgery_is_not_asked_where_it_cannot_be(birds, language: Language) -> None:
    loaded, pictures = classifier(), pictures_of(birds)
    logits = classify(loaded.model, pictures.seen)

    def why(clips: dict[str, Clip], concepts: list[Concept]) -> str:
        found = readings_of(loaded, pictures, concepts, Language(clips), logits)
        assert found.surgery.empty
        return found.missing["network surgery (paper 1)"]

    assert "CLIP-ResNet" in why({"clip-vit-mini": language.clips["clip-vit-mini"]}, in_words("background"))
    assert "no concept has texts" in why(language.clips, in_words("background"))  # it knows digits alone
    assert "no convolution" in why(language.clips, [Concept("colour", texts=["a red digit"])])


# --- paper 2 ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told(language: Language) -> dict[str, pd.DataFrame]:
    """Words of features that hold what captions say, of some that do not, and answers that go with neither."""
    draw = np.random.default_rng(0)
    kind = draw.integers(0, 2, 120)
    captions = tuple(("a photo of a duck", "a photo of a crow")[each] for each in kind)
    noise = torch.from_numpy(draw.standard_normal((120, 8))).float()
    holding = torch.cat([torch.from_numpy(kind * 2.0 - 1)[:, None].float(), noise[:, :3]], 1)
    pictures = pictures_of(deal(TASKS["birds"], 120, 0, "test"), captions)
    unlike = draw.integers(0, 2, 120)
    told, once = {}, module._sentences

    def sentences(features: Tensor, *others) -> list[list[str]]:  # a training each is enough
        if id(features) not in told:
            told[id(features)] = once(features, *others)
        return told[id(features)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_sentences", sentences)
        rows = {
            "held": module._words((holding, noise), pictures, kind, language, "cpu", SEED),
            "lost": module._words((noise, noise), pictures, kind, language, "cpu", SEED),
            "shuffled too": module._words((holding, holding), pictures, kind, language, "cpu", SEED),
            "other answers": module._words((holding, noise), pictures, unlike, language, "cpu", SEED),
        }
    return {name: pd.DataFrame(each, columns=module.WORDS) for name, each in rows.items()}


def test_words_of_an_answer_are_those_that_its_features_hold(told: dict[str, pd.DataFrame]) -> None:
    passing = told["held"][told["held"]["why"] == ""]
    assert set(zip(passing["answer"], passing["word"], strict=True)) >= {(0, "duck"), (1, "crow")}
    assert (passing["told"] > passing["of other answers"]).all()


@pytest.mark.parametrize("name", ["lost", "shuffled too", "other answers"])
def test_no_word_passes_that_is_not_held_not_learned_or_not_of_the_answer(told, name: str) -> None:
    assert told[name]["why"].all()
    if name == "shuffled too":
        assert (told[name].set_index("word").loc[["duck", "crow"], "why"] == module.SAME).all()


def test_the_p_of_words_allows_for_all_of_them() -> None:
    draw, least = np.random.default_rng(0), []
    for seed in range(60):
        shares, having = draw.random((60, 30)), draw.random(60) < 0.5
        least.append(module._permuted(shares, having, seed).min() <= 0.05)
    assert stats.binom.sf(sum(least) - 1, 60, 0.05) > 0.001


# --- paper 4 ----------------------------------------------------------------------------------------------------------


def test_heads_turn_the_answers_that_ablation_turns(birds) -> None:
    loaded = load_classifier(f"open_clip:local-dir:{WEIGHTS / 'clip-vit-mini'}", ["a duck", "a bird on water"])
    pictures = pictures_of(birds)
    logits = classify(loaded.model, pictures.seen)
    found = readings_of(loaded, pictures, in_words("background", "colour"), None, logits)
    assert len(found.heads) == module.TOP and found.heads["share of variance"].is_monotonic_decreasing
    assert 0 < found.heads["share of variance"].sum() <= 1
    tower, prompts = loaded.clip.image_encoder, loaded.clip.encode_texts(["a photo of a duck", "a bird on water"])
    prompts = loaded.clip.encode_texts(["a duck", "a bird on water"])
    parts = decompose(tower, pictures.seen.images(slice(None)))
    means = mean_contributions([parts])
    before = (parts.embedding @ prompts.T).argmax(1)
    assert torch.equal(before, logits.argmax(1))
    for row in found.heads.to_dict("records"):
        without = ablate(parts, means, heads=[(row["layer"], row["head"])])
        turned = ((without @ prompts.T).argmax(1) != before).double().mean().item()
        assert row["turned"] == pytest.approx(turned)
        texts = loaded.clip.encode_texts(row["texts"].split("; ")).double().numpy()
        added = parts.attention[:, row["layer"], row["head"]].double().numpy()
        added = added - added.mean(0)
        left = added.T - texts.T @ np.linalg.lstsq(texts.T, added.T, rcond=None)[0]
        assert row["explained"] == pytest.approx(1 - (left**2).sum() / (added**2).sum(), rel=1e-4)
        assert row["by other heads"] >= 0 and (row["why"] == "") <= (row["turned"] > row["by other heads"])


# --- all of it --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_asked_is_said_and_why(birds) -> None:
    loaded, pictures = classifier(), pictures_of(birds)
    found = readings_of(loaded, pictures, in_words("background"), None, classify(loaded.model, pictures.seen))
    assert found.concepts.empty and set(found.missing) == {
        "concepts in words", "network surgery (paper 1)", "TExplain (paper 2)", "heads and TextSpan (paper 4)"
    }  # fmt: skip
    assert "--clip" in found.missing["concepts in words"] and "--captioner" in found.missing["TExplain (paper 2)"]


def test_texts_that_a_clip_does_not_know_are_named_and_the_others_asked(birds, language: Language) -> None:
    loaded, pictures = classifier(), pictures_of(birds)
    concepts = [*in_words("background"), Concept("odd", texts=["a photo of a zeugma"])]
    found = readings_of(
        loaded, pictures, concepts, Language(language.clips), classify(loaded.model, pictures.seen), seed=SEED
    )
    assert list(found.concepts["concept"]) == ["background"] and "zeugma" in found.missing["odd"]


def test_only_what_a_tokenizer_loses_is_a_loss() -> None:
    with pytest.warns(FutureWarning, match="another"), module._losses() as lost:
        warnings.warn("another library's", FutureWarning, stacklevel=1)
        warnings.warn("2 words are not known.", LossWarning, stacklevel=1)
    assert lost == ["2 words are not known"]


def test_shuffled_weights_that_overflow_are_no_control(birds, language: Language, monkeypatch) -> None:
    """They give no number, and so neither a finding nor its absence."""

    def broken(model: nn.Module, seed: int) -> nn.Module:
        other = copy.deepcopy(model)
        with torch.no_grad():
            last_layer(other).weight.fill_(torch.nan)
        return other

    monkeypatch.setattr(module, "shuffled", broken)
    loaded, pictures, pixels = classifier(), pictures_of(birds), birds.pixels()
    has = torch.from_numpy(birds.codes[:, TASKS["birds"].names.index("background")] == 1)
    concepts = [*in_words("background"), Concept("water", shown=pixels[has], without=pixels[~has])]
    found = readings_of(loaded, pictures, concepts, language, classify(loaded.model, pictures.seen))
    assert found.concepts["p, weights shuffled"].isna().all() and not (found.concepts["why"] == module.SAME).any()
    assert found.concepts.set_index("concept").loc["water", "why"] == MISSING
    assert found.missing["TExplain (paper 2)"] == found.missing["network surgery (paper 1)"] == MISSING


def test_a_classifier_without_a_last_layer_is_asked_what_can_be(birds) -> None:
    class Bare(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.stack([images[:, 0].mean((1, 2)), images[:, 2].mean((1, 2))], 1)

    loaded = Loaded.of(Preprocessed(Bare(), 64, (0.0,) * 3, (1.0,) * 3))
    pictures, pixels = pictures_of(birds), birds.pixels()
    concept = Concept("some", shown=pixels[:60], without=pixels[60:])
    found = readings_of(loaded, pictures, [concept], None, classify(loaded.model, pictures.seen))
    assert "last linear layer" in found.missing["concepts by pictures"] and found.concepts.empty


def test_the_features_are_what_the_last_layer_is_given(birds) -> None:
    loaded, seen = classifier(), Seen(birds.pixels())
    last = last_layer(loaded.model)
    features = inputs_of(loaded.model, last, seen.images, len(seen), seen.sides, "cpu")
    assert torch.allclose(last(features), classify(loaded.model, seen), atol=1e-5)
    assert last_layer(nn.Conv2d(3, 2, 1)) is None
    twice = nn.Sequential(nn.Flatten(), nn.Linear(12, 12), nn.ReLU())
    images = torch.rand(2, 3, 2, 2)
    assert (
        inputs_of(twice, last_layer(twice), lambda rows: images[rows], 2, (2, 2), "cpu") is None
    )  # it gives no logits


# --- from a file ------------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path) -> Path:
    for name in ("striped", "plain"):
        (tmp_path / name).mkdir()
        for number in range(12):
            pixels = np.random.default_rng(number).integers(0, 255, (40, 50, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_concepts_in_words_and_by_pictures_are_read(written: Path) -> None:
    (written / "c.toml").write_text(
        '[snow]\ntexts = ["a photo of snow"]\nagainst = ["grass"]\n[stripes]\npictures = "striped"\nwithout = "plain"\n'
    )
    snow, stripes = read_concepts(written / "c.toml", classifier().look)
    assert snow.texts == ["a photo of snow"] and snow.change is None
    assert stripes.shown.shape == stripes.without.shape == (12, 3, 64, 64)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("expected = true", "does not say what to change"),
        ('texts = "snow"', "one string"),
        ('texts = []\nagainst = ["grass"]', "none of it"),
        ('texts = []', "unknown change"),
        ('pictures = "striped"', "give both"),
        ('pictures = "striped"\nwithout = "nowhere"', "nowhere is no folder"),
    ],
)  # fmt: skip
def test_slips_in_a_file_are_named(written: Path, table: str, said: str) -> None:
    (written / "c.toml").write_text(f"[mine]\n{table}\n")
    with pytest.raises(ValueError, match=said) as raised:
        read_concepts(written / "c.toml", classifier().look)
    assert "mine" in str(raised.value)


def test_few_pictures_and_no_classifier_are_refused(written: Path) -> None:
    for file in sorted((written / "plain").iterdir())[5:]:
        file.unlink()
    (written / "c.toml").write_text('[mine]\npictures = "striped"\nwithout = "plain"\n')
    with pytest.raises(ValueError, match="5 pictures say nothing"):
        read_concepts(written / "c.toml", classifier().look)
    with pytest.raises(ValueError, match="give its `look`"):
        read_concepts(written / "c.toml")
