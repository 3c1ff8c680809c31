"""What notebook 04 puts together: ablated answers, roles by rule, worst groups, the pictures of both profiles."""

import dataclasses
import inspect
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from real_files import BESIDE
from rounding import clear_winners

from xaikit.companion import profiles
from xaikit.companion.profiles import Settings
from xaikit.companion.record import published
from xaikit.datasets import imagenet, imagenet_segmentation, waterbirds
from xaikit.datasets.images import read_image
from xaikit.decomposition.decompose import decompose
from xaikit.decomposition.heads import mean_contributions
from xaikit.decomposition.textspan import TextSpan
from xaikit.metrics.intervals import Interval
from xaikit.models.clip import Clip
from xaikit.studies import clip_decomposition as study
from xaikit.studies import clip_pictures as pictures
from xaikit.studies.clip_decomposition import Ablation, Decomposed, Pool

NAME = "04_clip_decomposition"


@pytest.fixture(scope="module")
def cfg() -> Settings:
    """The mini profile with fewer pictures."""
    settings = profiles.load("mini", NAME, 0).as_dict()
    fewer = {"per_class": 2, "segmented": 8, "birds": {"test": 40, "validation": 20}, "pool": 60, "class_pool": 40}
    return Settings(settings | fewer, "the tests' profile")


@pytest.fixture(scope="module")
def model(cfg) -> study.Backbone:
    (found,) = study.backbones(cfg)
    return found


@pytest.fixture(scope="module")
def clip(model) -> Clip:
    return model.clip


@pytest.fixture(scope="module")
def data(cfg) -> pictures.Labelled:
    return pictures.classification(cfg, 0)


@pytest.fixture(scope="module")
def parts(clip, data) -> Decomposed:
    return Decomposed.of(clip, data.images, "test images", shard_size=32)


@pytest.fixture(scope="module")
def classes(clip, data) -> study.Classes:
    return study.Classes(study.class_embeddings(clip, data.prompts), data.choices)


# --- models -------------------------------------------------------------------------------------------------------


def test_the_papers_numbers_of_a_model_are_found_by_its_name(model) -> None:
    tags = {
        "ViT-B-16": "laion2b_s34b_b88k", "ViT-L-14": "laion2b_s32b_b82k", "ViT-H-14": "laion2b_s32b_b79k",
    }  # fmt: skip
    for name, tag in tags.items():
        assert study.published_as(name, tag) == name.lower()
        assert published(f"gandelsman.waterbirds.{name.lower()}.worst-group.ours") > 0
    others = {"ViT-B-32": "laion2b_s34b_b79k", "ViT-B-16": "openai", "clip-vit-mini": None}
    assert [study.published_as(*each) for each in others.items()] == [None] * 3
    assert (model.published_as, model.is_the_papers, model.first) == ("vit-b-16", False, True)
    named = [study.name_of_model(each) for each in study.model_settings(profiles.load("paper", NAME, 0))]
    assert named == list(tags)


def test_numbers_of_the_first_model_have_no_name_and_stand_beside_the_papers(model) -> None:
    other = dataclasses.replace(model, name="ViT-L-14", published_as="vit-l-14", is_the_papers=True, first=False)
    strange = dataclasses.replace(other, name="ViT-g-14", published_as=None, is_the_papers=False)
    assert (model.id("a.b"), other.id("a.b")) == ("a.b", "a.b.vit-l-14")
    base = "table1.{model}.base"
    found = [pictures.published_id(each, base) for each in (model, other, strange)]
    assert found == ["gandelsman.table1.vit-b-16.base", "gandelsman.table1.vit-l-14.base", None]
    of_none = [pictures.published_id(each, "segmentation.ours.miou") for each in (model, other)]
    assert of_none == ["gandelsman.segmentation.ours.miou", None]
    assert pictures.published_id(model, None) is None


def test_a_model_embeds_its_classes_once(model, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = (("a photo of a dog", "a dog"), ("a photo of a duck",))
    found = model.classes(prompts)
    expected = [model.clip.encode_texts(list(texts)).mean(0) for texts in prompts]
    torch.testing.assert_close(found, F.normalize(torch.stack(expected), dim=1), rtol=0, atol=1e-6)
    monkeypatch.setattr(study, "class_embeddings", None)
    assert model.classes(prompts) is found


# --- pictures -----------------------------------------------------------------------------------------------------


def test_both_profiles_have_what_the_notebook_reads() -> None:
    mini, paper = (profiles.load(name, NAME, 0) for name in ("mini", "paper"))
    of_mini = {"per_class", "pool", "class_pool", "segmented", "birds", "published_as", "redrawn"}
    of_paper = {
        "imagenet",
        "waterbirds",
        "segmentation",
        "text_pools",
        "alignment",
        "time_limit",
        "more_clips",
        "workers",
    }
    assert set(mini) - set(paper) == of_mini and set(paper) - set(mini) == of_paper
    for cfg in (mini, paper):
        assert max(cfg.sizes) <= cfg.basis and cfg.compared_size in cfg.sizes
        assert "place" in cfg.topics and 0.5 < cfg.role_share <= 1


def test_the_classes_of_the_world_are_balanced_and_labelled(data) -> None:
    assert len(data) == 43 * 2 == len(data.images) and len(set(data.names)) == 43 == len(data.prompts)
    assert torch.bincount(data.families).tolist() == [8, 9, 10, 16]
    assert data.choices.sum(1).unique().tolist() == [8, 9, 10, 16]
    assert data.choices.gather(1, data.labels[:, None]).all()
    assert torch.bincount(data.labels[: 8 * 2]).tolist() == [2] * 8  # species, dealt exactly
    assert set(data.factors) == {"object", "colour", "count", "place", "pattern", "looks", "text"}
    for labels in data.factors.values():
        assert labels.shape == data.labels.shape
    assert (data.factors["count"] >= 0).sum() == 16 and (data.factors["pattern"] >= 0).sum() == 18
    image = data.images[0]
    assert image.shape == (3, 64, 64) and 0 <= image.min() < image.max() <= 1


def test_test_and_validation_pictures_are_different(cfg, data) -> None:
    other = pictures.classification(cfg, 0, "validation")
    seen = {data.images[i].numpy().tobytes() for i in range(len(data))}
    assert not seen & {other.images[i].numpy().tobytes() for i in range(len(other))}


def test_groups_of_birds_are_kind_and_background(cfg) -> None:
    birds = pictures.waterbirds(cfg, 0)
    assert birds.group_names == ("landbird on land", "landbird on water", "waterbird on land", "waterbird on water")
    assert torch.bincount(birds.groups).tolist() == [10] * 4
    assert torch.equal(birds.groups // 2, birds.labels) and torch.equal(birds.groups % 2, birds.factors["place"])


def test_segmented_scenes_come_with_their_masks(cfg) -> None:
    birds, things = pictures.segmentation(cfg, 0)
    assert (len(birds.prompts), len(things.prompts)) == (8, 9) and birds.prompts[0] == ("a photo of a duck",)
    batches = [*birds.batches(3), *things.batches(3)]
    assert [len(images) for images, _ in batches] == [3, 1, 3, 1]
    assert all(masks.flatten(1).any(1).all() and masks.shape[1:] == images.shape[2:] for images, masks in batches)


def test_pools_are_of_different_texts(cfg, clip) -> None:
    pools = pictures.pools(cfg, clip, 0)
    assert list(pools) == ["general", "common words", "class-specific", "random"]
    for name, pool in pools.items():
        assert pool.embeddings.norm(dim=1).sub(1).abs().max() < 1e-5
        assert len(set(pool.texts)) == (0 if name == "random" else len(pool.embeddings))
    assert not any("<" in text for text in pools["common words"].texts)


def test_the_published_heads_are_those_of_the_paper(model) -> None:
    assert pictures.published_heads(model) == () and pictures.named_heads(model) == {}
    counts = {
        "vit-b-16": 7,
        "vit-l-14": int(published("gandelsman.waterbirds.vit-l-14.ablated.distinct")),
        "vit-h-14": 9,
    }
    for name, count in counts.items():
        theirs = dataclasses.replace(model, published_as=name, is_the_papers=True)
        chosen = pictures.published_heads(theirs)
        assert len(chosen) == len(set(chosen)) == count
        assert pictures.named_heads(theirs)["place"][-count:] == chosen or name == "vit-l-14"
        if name == "vit-b-16":
            assert (11, 6) in chosen and (9, 8) in chosen
    named = pictures.named_heads(dataclasses.replace(model, published_as="vit-l-14", is_the_papers=True))
    assert named["colour"] == ((22, 11),) and named["count"] == ((23, 10),) and (21, 11) in named["place"]


def save_photograph(path: Path, seed: int, size: tuple[int, int] = (90, 70)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_photographs_are_prepared_one_by_one(tmp_path: Path) -> None:
    sizes = [(90, 70), (64, 100), (51, 51)]
    for number, size in enumerate(sizes):
        save_photograph(tmp_path / f"{number}.png", number, size)
    records = [type("P", (), {"image": read_image(tmp_path / f"{n}.png")}) for n in range(len(sizes))]
    prepared = pictures.Prepared(records, 48)
    assert len(prepared) == 3
    for image in (prepared[n] for n in range(3)):
        assert image.shape == (3, 48, 48) and 0 <= image.min() < image.max() <= 1


def test_the_paper_profile_reads_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip) -> None:
    """All loaders through the notebook's own functions, on small files in the data sets' layouts."""
    monkeypatch.setattr(pictures, "DATASETS", tmp_path)
    monkeypatch.setattr(imagenet, "PER_CLASS", 1)
    monkeypatch.setattr(imagenet, "CLASSES", 20)
    monkeypatch.setattr(waterbirds, "COUNTS", {"train": (0,) * 4, "val": (1, 1, 1, 1), "test": (1, 1, 1, 1)})
    monkeypatch.setattr(imagenet_segmentation, "IMAGES", 2)
    cfg = Settings(profiles.load("paper", NAME, 0).as_dict() | {"size": 64}, "the tests' profile")
    for number, folder in enumerate(imagenet.wordnet_ids()[:20]):
        save_photograph(tmp_path / cfg.imagenet / "val" / folder / f"ILSVRC2012_val_{number + 1:08d}.JPEG", number)
    rows = ["img_id,img_filename,y,split,place,place_filename"]
    for number in range(8):
        save_photograph(tmp_path / cfg.waterbirds / f"{number}.jpg", number)
        rows.append(f"{number},{number}.jpg,{number // 2 % 2},{1 + number // 4},{number % 2},x")
    (tmp_path / cfg.waterbirds / "metadata.csv").write_text("\n".join(rows))
    file = tmp_path / cfg.segmentation
    file.parent.mkdir()
    with h5py.File(file, "w") as mat:
        images = mat.create_dataset("value/img", (2, 1), h5py.ref_dtype)
        masks = mat.create_dataset("value/gt", (2, 1), h5py.ref_dtype)
        for number in range(2):
            image = mat.create_dataset(f"i{number}", data=np.full((3, 80, 70), 9, np.uint8))
            mask = np.zeros((80, 70), np.uint8)
            mask[20:60, 20:50] = 1
            cell = mat.create_dataset(f"c{number}", (1, 1), h5py.ref_dtype)
            cell[0, 0] = mat.create_dataset(f"m{number}", data=mask).ref
            images[number, 0], masks[number, 0] = image.ref, cell.ref
    for name in ("image_descriptions_general", "google_3498_english", "image_descriptions_per_class"):
        (tmp_path / cfg.text_pools).mkdir(exist_ok=True)
        (tmp_path / cfg.text_pools / f"{name}.txt").write_text("a photo of a red duck\na dog\n\na dog\n")

    test, validation = (pictures.classification(cfg, 0, split) for split in ("test", "validation"))
    assert (len(test), len(validation)) == (18, 2) and len(test.prompts[0]) == 80
    assert test.images[0].shape == (3, 64, 64)
    birds = pictures.waterbirds(cfg, 0)
    assert birds.groups.tolist() == [0, 1, 2, 3] and birds.images[3].shape == (3, 64, 64)
    [photographs] = pictures.segmentation(cfg, 0)
    [(images, masks)] = photographs.batches(4)
    assert len(photographs.prompts) == 1000 and birds.choices.all() and test.choices.shape == (18, 1000)
    assert images.shape == (2, 3, 64, 64) and masks.shape == (2, 64, 64)
    images, masks, prompts = pictures.photographs_with_masks(cfg, 0, 5)
    assert images.shape == (2, 3, 64, 64) and masks.flatten(1).any(1).all() and len(prompts) == 1000
    with pytest.warns(UserWarning, match="1 of 3 texts are to the model what an earlier one is.*'a dog'"):
        pools = pictures.pools(cfg, clip, 0)
    assert {len(pool.embeddings) for pool in pools.values()} == {2}
    examples, texts = pictures.heatmap_examples(cfg, 0)
    assert examples.shape == (4, 3, 64, 64) and len(texts) > 1


# --- ablated answers ----------------------------------------------------------------------------------------------


def test_answers_under_ablations_are_those_of_the_edited_embeddings(parts, classes) -> None:
    means = mean_contributions(parts)
    layers = means.attention.shape[1]
    ablations = {
        "base": Ablation(),
        "mlps": Ablation(mlps=True),
        "head": Ablation(heads=((layers - 1, 2),)),
        "early": Ablation(layers=tuple(range(layers - 1))),
    }
    answers = study.predictions(parts, classes, means, ablations)
    everything = list(parts)
    attention = torch.cat([part.attention for part in everything])
    embedding = torch.cat([part.embedding for part in everything])
    edited = {"base": embedding, "mlps": attention.sum((1, 2)) + means.mlps.sum(1)}
    edited["head"] = embedding - attention[:, -1, 2] + means.attention[:, -1, 2]
    edited["early"] = embedding - attention[:, :-1].sum((1, 2)) + means.attention[:, :-1].sum((1, 2))
    cumulative = study.cumulative_predictions(parts, classes, means)
    found = [*answers.items(), ("base", cumulative[0]), ("early", cumulative[layers - 1])]
    for name, answer in found:
        scores = (edited[name] @ classes.embeddings.T).where(classes.choices, -torch.inf)
        clear = clear_winners(scores)
        assert clear.double().mean() > 0.9 and torch.equal(answer[clear], scores.argmax(1)[clear])


def test_all_directions_of_a_head_give_it_back(parts, classes, clip) -> None:
    means, heads = mean_contributions(parts), study.last_heads(parts.readout, 1)
    width = parts.readout.heads.shape[2]
    pool = Pool.random(200, classes.embeddings.shape[1], torch.Generator().manual_seed(0))
    span = pool.span(parts.moments(heads), width)
    answers = study.reconstructed_predictions(parts, classes, means, heads, {"random": span}, [1, width])
    layers = means.attention.shape[1]
    whole = study.cumulative_predictions(parts, classes, means)[layers - 1]
    assert (answers["random", width] == whole).double().mean() > 0.97  # up to ties within rounding
    assert (answers["random", 1] == whole).double().mean() < 0.9


# --- roles --------------------------------------------------------------------------------------------------------

TOPICS = {"colour": ("red", "blue"), "place": ("sea",), "object": ("duck",)}


def test_topics_are_whole_words() -> None:
    assert study.topics_of("A red duck on the sea.", TOPICS) == ["colour", "place", "object"]
    assert study.topics_of("ducks, redder than seaside", TOPICS) == ["object"]


def test_a_role_is_what_most_of_the_explained_variance_names() -> None:
    texts = ("red", "blue duck", "sea", "nothing")
    span = TextSpan(
        torch.tensor([[0, 1, 2], [2, 3, -1]]),
        torch.tensor([[0.5, 0.7, 0.8], [0.3, 0.9, 0.9]]).double(),
        torch.zeros(2, 1),
        torch.zeros(2, 3, 1),
    )
    pool = Pool(torch.zeros(4, 1), texts)
    found = study.roles(span, [(4, 0), (5, 1)], pool, TOPICS, first=3, least=0.6)
    assert found[0].shares == pytest.approx({"colour": 0.75, "object": 0.125, "place": 0.125})
    assert found[0].topic == "colour" and found[0].texts == ("red", "blue duck", "sea")
    assert found[1].topic is None and found[1].shares["place"] == pytest.approx(1 / 3)
    apart = study.roles(span, [(4, 0), (5, 1)], pool, TOPICS, first=3, least=0.6, margin=0.63)
    assert [role.topic for role in apart] == [None, None]  # 0.75 is 0.625 above the second
    told = dataclasses.replace(pool, topics=("place", "place", "colour", "object"))
    (first, second) = study.roles(span, [(4, 0), (5, 1)], told, TOPICS, first=3, least=0.6, margin=0.25)
    assert (first.topic, second.topic) == ("place", "object") and first.shares["place"] == pytest.approx(0.875)
    assert study.with_role(found, "colour") == ((4, 0),) and study.name_of((4, 0)) == "L4.H0"


def test_a_role_is_agreed_on_by_more_than_half_of_the_draws() -> None:
    def drawn(*topics: str | None) -> tuple[study.Role, ...]:
        return tuple(study.Role((5, head), (), 0.5, {}, topic) for head, topic in enumerate(topics))

    draws = [
        drawn("place", "place", None, "colour"),
        drawn("place", "colour", None, None),
        drawn(None, "object", "text", None),
    ]
    expected = {(5, 0): "place", (5, 1): None, (5, 2): None, (5, 3): None}
    assert study.agreed(draws) == expected and study.agreed(draws[:2])[(5, 0)] == "place"


def test_labels_of_some_heads_are_those_of_all(parts, data, clip, cfg) -> None:
    pools = [pool for pool, _ in pictures.draws_of_one_topic(cfg, clip, 0, Pool(torch.zeros(1, 1), ("x",)))]
    heads = study.last_heads(parts.readout, 2)
    families = data.families[data.labels]
    rule = {"first": 3, "least": 0.6, "margin": 0.25}
    found = study.Labels.of(pools, parts.moments(heads, families), heads, cfg.topics, 3, **rule)
    some = heads[3:9:2]
    own = study.Labels.of(pools, parts.moments(some, families), some, cfg.topics, 3, **rule)
    for a, b in zip(found.of_some(some).draws, own.draws, strict=True):
        assert [(role.head, role.texts, role.topic) for role in a] == [
            (role.head, role.texts, role.topic) for role in b
        ]
    assert found.of_some(some).agreed == {head: t for head, t in found.agreed.items() if head in some}


def test_pools_of_one_topic_have_as_many_texts_of_each_and_others_left_out(cfg, clip) -> None:
    drawn = pictures.draws_of_one_topic(cfg, clip, 0, Pool(torch.zeros(1, 1), ("x",)))
    assert len(drawn) == pictures.DRAWS
    for pool, held_out in drawn:
        assert {pool.topics.count(topic) for topic in cfg.topics} == {cfg.one_topic}
        assert all(held_out.topics.count(topic) > 2 for topic in cfg.topics)
        assert not {*pool.texts} & {*held_out.texts}
        credits = pool.credits(list(cfg.topics), cfg.topics)
        assert (credits.sum(1) == 1).all() and (credits.max(1) == 1).all()
    assert drawn[0][0].texts != drawn[1][0].texts
    general = pictures.pools(cfg, clip, 0, ("general",))["general"]
    draws = pictures.draws_of_two_topics(cfg, clip, 0, general)
    assert draws[0] is general and len({pool.texts for pool in draws}) == pictures.DRAWS
    listed = Settings(cfg.as_dict() | {"data": "imagenet"}, "the tests' profile")
    for pool, held_out in pictures.draws_of_one_topic(listed, clip, 0, general):
        for text, topic in zip((*pool.texts, *held_out.texts), (*pool.topics, *held_out.topics), strict=True):
            assert study.topics_of(text, cfg.topics) == [topic] and text in general.texts
    halves = pictures.draws_of_two_topics(listed, clip, 0, general)[1:]
    assert [len(half.texts) for half in halves] == [30, 30] and {*halves[0].texts} < {*general.texts}


def test_moments_within_families_are_those_of_centred_contributions(parts, data) -> None:
    heads, families = study.last_heads(parts.readout, 1)[:3], data.families[data.labels]
    found, contributions = parts.moments(heads, families), parts.of_heads(heads).double()
    scatter = torch.einsum("hij,hir,hjs->hrs", found.scatter, found.basis, found.basis)
    expected = torch.zeros_like(scatter)
    for family in families.unique():
        own = contributions[families == family]
        own = own - own.mean(0)
        expected += torch.einsum("nhr,nhs->hrs", own, own)
    torch.testing.assert_close(scatter, expected, rtol=1e-4, atol=1e-6)
    mean = torch.einsum("hr,hrf->hf", found.mean, found.basis)
    torch.testing.assert_close(mean, contributions.mean(0), rtol=1e-4, atol=1e-6)
    assert found.count == len(data)


def test_the_class_token_is_what_its_cells_add_up_to(clip, data, parts, classes) -> None:
    own = study.ClassToken.of(clip, parts.readout, data.images, 7, 0, batch=3)
    images = torch.stack([data.images[int(row)] for row in own.rows])
    cells = decompose(clip.image_encoder, images, "head-token", parts.readout)
    torch.testing.assert_close(own.class_token, cells.attention[:, :, :, 0].sum((1, 2)), rtol=0, atol=1e-5)
    torch.testing.assert_close(own.mlps, cells.mlps.sum(1), rtol=0, atol=1e-5)
    expected = cells.attention[:, :, :, 1:].sum((1, 2, 3)) + own.class_token.mean(0) + own.mlps
    torch.testing.assert_close(own.without(own), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(own.without(own, mlps=True), expected - own.mlps + own.mlps.mean(0), rtol=0, atol=1e-5)
    whole = classes.of_some(own.rows, own.embeddings)
    scores = (own.embeddings @ classes.embeddings.T).where(classes.choices[own.rows], -torch.inf)
    assert torch.equal(whole, scores.argmax(1))


def analysis_of_variance(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """η² of one head, value by value, in float64."""
    x, labels = x[labels >= 0].double(), labels[labels >= 0]
    between = sum(
        (labels == v).sum() * ((x[labels == v].mean(0) - x.mean(0)) ** 2).sum() for v in labels.unique().tolist()
    )
    return between / ((x - x.mean(0)) ** 2).sum()


def test_variance_explained_is_that_of_an_analysis_of_variance() -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (90,), generator=draw)
    x = 100 + torch.randn(90, 3, 4, generator=draw)
    x[:, 0] += 5 * F.one_hot(labels, 4)
    x[:, 2] = 0.1  # a head that says the same of all
    some = torch.where(torch.arange(90) % 4 == 0, -1, 2 * labels)  # not of all images, and not of all values
    found = study.variance_explained(x.split(17), {"all": labels, "some": some})
    for name, factor in {"all": labels, "some": some}.items():
        for head in range(2):
            assert found[name][head].item() == pytest.approx(analysis_of_variance(x[:, head], factor).item(), abs=1e-9)
        assert found[name][2] == 0
    assert found["all"][0] > 0.7 and found["all"][1] < 0.15
    orders = {str(n): labels[torch.randperm(90, generator=draw)] for n in range(300)}
    chances = torch.stack(list(study.variance_explained([x[:, 1:2]], orders).values()))
    assert chances.mean().item() == pytest.approx(study.chance_of_variance_explained(3, 90), abs=0.004)
    with pytest.raises(ValueError, match="'all' has labels of 90 images, and there are 80"):
        study.variance_explained([x[:80]], {"all": labels})
    with pytest.raises(ValueError, match="No image has the factor 'none'"):
        study.variance_explained([x], {"none": torch.full((90,), -1)})


def test_what_heads_carry_is_read_from_the_store_as_from_all_contributions(parts, data) -> None:
    layers, heads = parts.readout.heads.shape[:2]
    every = [(layer, head) for layer in range(layers) for head in range(heads)]
    contributions = parts.of_heads(every)
    found = parts.variance_explained(data.factors)
    for topic, labels in data.factors.items():
        expected = [analysis_of_variance(contributions[:, column], labels).item() for column in range(len(every))]
        torch.testing.assert_close(found[topic], torch.tensor(expected).double(), rtol=0, atol=1e-5)


def test_never_more_than_some_contributions_are_in_memory(
    parts, data, classes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """94 GB of ViT-H-14's for 45,000 images: parts of a shard at a time, and the same comes out."""
    whole, means = list(parts), mean_contributions(parts)
    answers = study.cumulative_predictions(parts, classes, means)
    layers, heads, _, features = parts.readout.heads.shape
    monkeypatch.setattr(study, "_NUMBERS_AT_ONCE", 5 * layers * heads * features)
    sizes = [len(part.embedding) for part in parts]
    assert max(sizes) == 5 and sum(sizes) == len(data) and len(whole) == 3
    torch.testing.assert_close(mean_contributions(parts).attention, means.attention, rtol=0, atol=1e-6)
    assert (study.cumulative_predictions(parts, classes, means) == answers).double().mean() > 0.99
    few = parts.of_heads([(0, 1), (layers - 1, 2)], 37)
    assert few.shape == (37, 2, features)
    torch.testing.assert_close(
        few[:, 1], torch.cat([part.attention[:, -1, 2] for part in whole])[:37], rtol=0, atol=1e-5
    )
    torch.testing.assert_close(parts.embeddings(), torch.cat([part.embedding for part in whole]), rtol=0, atol=0)


@pytest.fixture(scope="module")
def in_float16(model, data) -> Decomposed:
    return Decomposed.of(model.clip, data.images, "test images", shard_size=32, dtype=torch.float16)


def test_answers_and_roles_from_float16_are_those_from_float32(parts, in_float16, classes, clip, cfg, model) -> None:
    """What the paper profile's store does to its results, tried on the mini one: nothing but near ties turn."""
    means = [mean_contributions(each) for each in (parts, in_float16)]
    answers = [
        study.cumulative_predictions(*each) for each in zip((parts, in_float16), (classes, classes), means, strict=True)
    ]
    assert (answers[0] == answers[1]).double().mean() > 0.995
    assert torch.equal(answers[0][0], answers[1][0])  # of the embedding itself nothing is rounded
    heads = study.last_heads(parts.readout, cfg.last_layers)
    pool = pictures.pools(cfg, clip, 0, ("general",))["general"]
    spans = [pool.span(each.moments(heads), 16) for each in (parts, in_float16)]
    assert (spans[0].picks == spans[1].picks).double().mean() > 0.97
    torch.testing.assert_close(spans[0].explained, spans[1].explained, rtol=0, atol=1e-4)


# --- worst groups -------------------------------------------------------------------------------------------------


def test_the_worst_group_and_its_gains() -> None:
    groups = torch.arange(400) % 4
    base, better = torch.ones(400, dtype=torch.bool), torch.ones(400, dtype=torch.bool)
    base[(groups == 2) & (torch.arange(400) < 200)] = False
    better[(groups == 2) & (torch.arange(400) < 40)] = False
    assert study.worst_group(base.numpy(), groups.numpy()) == pytest.approx(0.5)
    gain = study.worst_group_gain(better, [base], groups, 0)
    assert gain.value == pytest.approx(0.4) and 0.2 < gain.low < gain.high < 0.6
    over_draws = study.worst_group_gain(better, [base, better], groups, 0)
    assert over_draws.value == pytest.approx(0.2) and over_draws.high - over_draws.low > gain.high - gain.low
    mean = study.mean_worst_group([base, better], groups, 0)
    assert mean.value == pytest.approx(0.7) and isinstance(mean, Interval)
    over = study.mean_worst_group([base, better], groups, 0, over=base)
    assert over.value == pytest.approx(0.2)
    both = study.worst_group(np.stack([base.numpy(), better.numpy()]), groups.numpy())
    np.testing.assert_allclose(both, [0.5, 0.9])
    assert study.worst_group_gain(base, [base], groups, 0) == Interval(0.0, 0.0, 0.0, 400)


def test_random_heads_are_others_of_the_same_layers() -> None:
    among = [(layer, head) for layer in (4, 5) for head in range(8)]
    chosen = [(4, 1), (5, 0), (5, 7)]
    found = study.random_heads(chosen, among, 30, np.random.default_rng(0))
    assert len(found) == 30 and len(set(found)) > 10
    for heads in found:
        assert [layer for layer, _ in heads] == [4, 5, 5] and len(set(heads)) == 3 and not {*heads} & {*chosen}
    assert study.random_heads([], among, 2, np.random.default_rng(0)) == [(), ()]
    assert study.random_heads(among[:8], among, 1, np.random.default_rng(0)) == [()]
    with pytest.raises(ValueError, match=r"The head L0\.H0 is not among"):
        study.random_heads([(0, 0)], among, 1, np.random.default_rng(0))


def test_texts_that_are_one_to_the_model_are_one_in_a_pool() -> None:
    """CLIP lowercases and joins spaces: the authors' 3,498 lines are 3,493 texts and 3,483 rows of tokens."""
    clip = SimpleNamespace(tokenizer=open_clip.get_tokenizer("ViT-B-16"))
    lines = ["A photo of Cardiff", "", "a photo of cardiff", "a dog ", "A photo of Cardiff", "a  dog", "a cat"]
    with pytest.warns(UserWarning, match="list.txt: 3 of 6 texts are to the model what an earlier one is.*cardiff"):
        found = inspect.unwrap(pictures.distinct_texts)(clip, lines, "list.txt")
    assert found == ["A photo of Cardiff", "a dog", "a cat"]
    assert inspect.unwrap(pictures.distinct_texts)(clip, lines[:1], "list.txt") == lines[:1]


@pytest.mark.skipif(
    not (BESIDE / "text-pools").is_dir(),
    reason="the checkout has no text-pools beside it; written lines are tried above",
)
def test_the_authors_list_has_as_many_texts_as_the_model_tells_apart() -> None:
    clip = SimpleNamespace(tokenizer=open_clip.get_tokenizer("ViT-B-16"))
    lines = (BESIDE / "text-pools" / "general_descriptions_3498.txt").read_text(encoding="utf-8").splitlines()
    with pytest.warns(UserWarning, match="15 of 3498 texts are to the model"):
        assert len(inspect.unwrap(pictures.distinct_texts)(clip, lines, "general")) == 3_483
