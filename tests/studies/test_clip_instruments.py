"""Controls of paper 4: what is planted is where it is said to be, and interventions move one cause alone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from xaikit import world
from xaikit.companion import profiles
from xaikit.decomposition.decompose import Contributions, Readout, decompose
from xaikit.decomposition.textspan import ContributionMoments, textspan
from xaikit.models.clip import Clip
from xaikit.storage.seeding import rng
from xaikit.studies import clip_decomposition as study
from xaikit.studies import clip_instruments as instruments
from xaikit.studies.clip_decomposition import Pool
from xaikit.world import SceneSet

RULE = {"first": 3, "least": 0.6, "margin": 0.25}
WORDS = {topic: [topic] for topic in ("red", "sea", "duck")}


@pytest.fixture(scope="module")
def clip() -> Clip:
    (found,) = study.backbones(profiles.load("mini", "04_clip_decomposition", 0))
    return found.clip


# --- interventions ------------------------------------------------------------------------------------------------


def test_redrawing_a_factor_leaves_all_others() -> None:
    sets = instruments.unconfounded(12, 0)
    assert set(sets) == set(world.FAMILIES)
    assert not any(scene.background is None for scene in sets["people"])
    for topic, by_family in instruments.REDRAWN.items():
        for family, factors in by_family.items():
            before = sets[family]
            after = instruments.redrawn(before, factors, rng(0, topic))
            assert (after.seeds == before.seeds).all()
            for name, codes in before.codes.items():
                same = (after.codes[name] == codes).all()
                assert same if name not in factors else sorted(after.codes[name]) == sorted(codes)
    rest = instruments.redrawn(sets["birds"], (), rng(0, "rest"))
    assert sorted(rest.seeds) == sorted(sets["birds"].seeds) and rest.codes == sets["birds"].codes
    with_place = [scene for scene in instruments.redrawn(sets["people"], ("profession",), rng(0, "p"))]
    assert [s.factors["place"] for s in with_place] == [s.factors["place"] for s in sets["people"]]


def test_total_effects_are_what_redrawing_moves(clip: Clip) -> None:
    """Against all contributions, scene by scene, by the definition."""
    sets = {name: scenes for name, scenes in instruments.unconfounded(5, 1).items() if name in ("birds", "nine")}
    readout = Readout.of(clip.image_encoder)
    known = {topic: {f: each for f, each in by.items() if f in sets} for topic, by in instruments.REDRAWN.items()}
    known = {topic: by for topic, by in known.items() if by}

    def written(scenes: SceneSet) -> torch.Tensor:
        return decompose(clip.image_encoder, scenes.images(64), "head", readout).attention.flatten(1, 2).double()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(instruments, "REDRAWN", known)
        found = instruments.total_effects(instruments.heads_of(clip, readout, 64, batch=2), sets, 1)
    assert set(found) == {"object", "colour", "count", "place", "pattern", "the rest"}
    for topic, by_family in {**known, "the rest": {"birds": (), "nine": ()}}.items():
        draw, moved, there = rng(1, "redrawn", topic), 0.0, 0.0
        for family, factors in by_family.items():
            before, after = written(sets[family]), written(instruments.redrawn(sets[family], factors, draw))
            moved = moved + ((after - before) ** 2).sum((0, 2))
            there = there + ((before - before.mean(0)) ** 2).sum((0, 2))
        np.testing.assert_allclose(found[topic], (moved / (2 * there)).numpy(), atol=1e-4)
    carriers, planted = instruments.planted_carriers(0)
    effects = instruments.total_effects(planted, instruments.unconfounded(24, 0), 0)
    assert instruments.most_moved(effects, carriers) == carriers
    for head, topic in enumerate(carriers):
        assert effects[topic][head] > 0.6
        assert max(values[head] for name, values in effects.items() if name != topic) < 0.1
    assert instruments.most_moved({"a": np.array([0.1, 0.9]), "b": np.array([0.2, 0.3])}, ["a", "b"]) == ["b", "a"]


# --- ablation -----------------------------------------------------------------------------------------------------


def contributions(images: int = 60) -> tuple[Contributions, torch.Tensor]:
    """Four classes in four directions, which the last of three layers writes; all else is small."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(images) % 4
    attention = 0.001 * torch.randn(images, 3, 2, 4, generator=draw)
    mlps = 0.001 * torch.randn(images, 4, 4, generator=draw)
    attention[:, 2, 1] += F.one_hot(labels, 4)
    return Contributions(attention, mlps, attention.sum((1, 2)) + mlps.sum(1), "head"), labels


@pytest.mark.parametrize("place", ["mlps", "early"])
def test_exchanged_terms_add_up_to_the_same_and_lie_elsewhere(place: instruments.Place) -> None:
    part, _ = contributions()
    changed = instruments.exchanged(part, place, 2)
    torch.testing.assert_close(changed.total(), part.embedding)
    torch.testing.assert_close(changed.embedding, part.embedding)
    late = part.attention[:, 2:].sum((1, 2))
    if place == "mlps":
        torch.testing.assert_close(changed.mlps.sum(1), late)
        torch.testing.assert_close(changed.attention[:, :2], part.attention[:, :2])
    else:
        torch.testing.assert_close(changed.attention[:, :2].sum((1, 2)), late)
        torch.testing.assert_close(changed.mlps, part.mlps)
    mixed = instruments.of_others(part, place, 2, rng(0, "others"))
    torch.testing.assert_close(mixed.total(), mixed.embedding)
    torch.testing.assert_close(mixed.attention[:, 2:], part.attention[:, 2:])
    torch.testing.assert_close(mixed.mlps.sum(0), part.mlps.sum(0))


def test_ablation_finds_what_is_planted_and_nothing_in_terms_of_others() -> None:
    part, labels = contributions()
    means = Contributions(*(each.mean(0, keepdim=True) for each in (part.attention, part.mlps, part.embedding)), "head")
    classes = study.Classes(torch.eye(4), torch.ones(len(labels), 4, dtype=torch.bool))
    halves = [
        Contributions(part.attention[rows], part.mlps[rows], part.embedding[rows], "head")
        for rows in torch.arange(len(labels)).chunk(2)
    ]
    found = instruments.ablation_controls(halves, classes, means, labels, 2, 0)
    assert set(found) == {"planted-in-mlps", "planted-early", "shuffled-mlps", "shuffled-early"}
    for name, interval in found.items():
        if name.startswith("planted"):  # a guess among four is left
            assert interval.value == pytest.approx(-0.75, abs=0.35) and interval.high < -0.1
        else:
            assert interval.value == 0


# --- texts and roles ----------------------------------------------------------------------------------------------


def pool_of_axes(each: int = 4) -> Pool:
    """Some unit texts of three topics, those of each in a plane of its own."""
    draw = torch.Generator().manual_seed(3)
    rows = []
    for topic in range(3):
        plane = torch.zeros(each, 6)
        plane[:, 2 * topic : 2 * topic + 2] = F.normalize(torch.randn(each, 2, generator=draw))
        rows.append(plane)
    topics = tuple(topic for topic in WORDS for _ in range(each))
    return Pool(torch.cat(rows), tuple(f"{topic} {i}" for i, topic in enumerate(topics)), topics)


def test_planted_heads_write_their_topic_and_get_its_role() -> None:
    pool, held_out = pool_of_axes(), pool_of_axes(6)
    names, written = instruments.planted_heads(held_out, list(WORDS), 400, 0)
    assert names == ["red", "red", "sea", "sea", "duck", "duck"] and written.shape == (400, 6, 6)
    for column, topic in enumerate(names):
        place = 2 * list(WORDS).index(topic)
        variance = written[:, column].var(0, correction=0)
        assert (variance[place : place + 2].sum() / variance.sum()).item() == pytest.approx(0.8, abs=0.05)
    topics, found = instruments.planted_found([pool] * 2, [held_out] * 2, WORDS, images=400, seed=0, **RULE)
    assert topics == names * 2 and found.all()
    with pytest.raises(ValueError, match="The pool has 0 texts on 'sky'"):
        instruments.planted_heads(pool, ["red", "sky"], 10, 0)


def test_texts_dealt_anew_give_a_role_where_all_texts_are_alike_only() -> None:
    pool = pool_of_axes()
    written = torch.randn(200, 2, 6, generator=torch.Generator().manual_seed(1))
    span = textspan(written, pool.embeddings, 3)
    same = Pool(pool.embeddings, pool.texts, ("red",) * len(pool.texts))
    heads = [(0, 0), (0, 1)]
    always = instruments.dealt_anew([span] * 3, heads, [same] * 3, WORDS, deals=4, seed=0, **RULE)
    assert [each.tolist() for each in always] == [[1, 1], [0, 0]]
    # By words as well as by the topics that the pool says: one deal is one role, or none.
    words = [Pool(pool.embeddings, pool.texts)] * 3
    seldom, red = instruments.dealt_anew([span] * 3, heads, words, WORDS, deals=40, seed=0, topic="red", **RULE)
    assert (red <= seldom).all() and (seldom < 0.6).all()


def test_a_turned_pool_is_as_alike_and_principal_directions_are_those_of_an_svd() -> None:
    pool = pool_of_axes()
    other = instruments.turned(pool, 0)
    torch.testing.assert_close(
        other.embeddings @ other.embeddings.T, pool.embeddings @ pool.embeddings.T, atol=1e-5, rtol=0
    )
    assert (other.embeddings - pool.embeddings).abs().max() > 0.1
    written = torch.randn(50, 2, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    basis = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    whole = torch.einsum("nhr,hrf->nhf", written, basis)
    for moments in (ContributionMoments().add(whole), ContributionMoments(basis).add(written)):
        found = instruments.principal(moments, 3)
        for head in range(2):
            centred = whole[:, head] - whole[:, head].mean(0)
            _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
            torch.testing.assert_close(found.explained[head], (singular**2).cumsum(0)[:3] / (singular**2).sum())
            torch.testing.assert_close((found.basis[head] @ directions[:3].T).abs(), torch.eye(3, dtype=torch.float64))
        torch.testing.assert_close(found.mean, whole.mean(0))
        more = instruments.principal(moments, 11)  # than there are in either's span
        assert more.basis.shape == (2, 11, 8) and (more.basis[:, 8:] == 0).all()
        torch.testing.assert_close(more.explained[:, 8:], torch.ones(2, 3, dtype=torch.float64))
        torch.testing.assert_close(more.basis[:, :3].abs(), found.basis.abs())


def test_an_untrained_clip_is_another_one_of_the_same_build(clip: Clip) -> None:
    before = {name: values.clone() for name, values in clip.model.state_dict().items()}
    blank, same, other = (instruments.untrained(clip, seed) for seed in (0, 0, 1))
    for name, values in blank.model.state_dict().items():
        assert torch.equal(values, same.model.state_dict()[name]) and torch.equal(
            before[name], clip.model.state_dict()[name]
        )
        if values.ndim > 1:
            assert not torch.equal(values, before[name]) and not torch.equal(values, other.model.state_dict()[name])
    assert blank.image_encoder is not clip.image_encoder and blank.model.visual is not clip.model.visual
    images = world.nine(6, seed=0).images(64)
    heads = study.last_heads(Readout.of(blank.image_encoder), 1)
    written = instruments.written_by_heads(blank, images, heads, 5, 2)
    expected = decompose(blank.image_encoder, images[:5]).attention[:, -1]
    torch.testing.assert_close(written, expected, atol=1e-5, rtol=0)
    assert written.var(0).sum(-1).min() > 0
    assert instruments.written_by_heads(blank, images, heads, 99, 4).shape[0] == 6
