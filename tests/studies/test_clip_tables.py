"""The rows of notebook 04: what is recorded of a few answers with known shares, and which heads are looked into."""

import dataclasses

import numpy as np
import pytest
import torch
from noted import recorded

from xaikit.companion import profiles
from xaikit.decomposition.textspan import TextSpan
from xaikit.studies import clip_heads as single
from xaikit.studies import clip_tables as tables
from xaikit.studies import clip_waterbirds as waterbirds
from xaikit.studies.clip_decomposition import Ablation, Backbone, Labels, Pool, Role, backbones

NOTEBOOK, PAPER = "04_clip_decomposition", "gandelsman"

RIGHT = torch.tensor([0, 1, 0, 1])


@pytest.fixture(scope="module")
def model() -> Backbone:
    """The mini profile's CLIP, beside which no published number stands."""
    (found,) = backbones(profiles.load("mini", "04_clip_decomposition", 0))
    return dataclasses.replace(found, published_as=None)


def role(head: tuple[int, int], topic: str | None, texts: tuple[str, ...] = ("a red duck",), **shares: float) -> Role:
    return Role(head, texts, 0.5, {"colour": 0.0, "place": 0.0} | shares, topic)


def labels(*draws: list[Role]) -> Labels:
    heads = tuple(each.head for each in draws[0])
    pool = Pool(torch.eye(2), ("a red duck", "a lake"))
    rows = len(heads)
    span = TextSpan(torch.tensor([[0, 1]] * rows), torch.tensor([[0.3, 0.5]] * rows), torch.zeros(rows, 2),
                    torch.eye(2).repeat(rows, 1, 1))  # fmt: skip
    return Labels(heads, (pool,) * len(draws), (span,) * len(draws), tuple(map(tuple, draws)))


def test_a_model_is_named_where_there_are_several() -> None:
    rows = [{"means": "corrected", "value": 0.5}]
    assert list(tables.of_models({"one": rows})) == ["means", "value"]
    two = tables.of_models({"one": rows, "two": rows * 2})
    assert (list(two), two.model.tolist()) == (["model", "means", "value"], ["one", "two", "two"])


def test_a_published_number_is_a_fraction_or_a_gap() -> None:
    assert 0 < tables.printed("gandelsman.table1.vit-b-16.base") < 1
    assert np.isnan(tables.printed(None))


def test_table_1_has_each_accuracy_and_how_far_it_is_from_that_of_the_whole(note, model) -> None:
    answers = {"base": RIGHT, "MLPs": torch.tensor([0, 1, 1, 1])}
    rows = tables.ablated(note, model, {"corrected": answers, "as-published": answers}, RIGHT)
    assert [(row["replaced by its mean"], row["means"], row["value"]) for row in rows] == [
        (name, means, value) for means in ("corrected", "as-published") for name, value in (("base", 1), ("MLPs", 0.75))
    ]
    assert recorded(note) == {
        "table1.base.corrected": 1.0, "table1.mlps.corrected": 0.75, "table1.mlps.as-published": 0.75,
        "table1.mlps-change.corrected": -0.25, "table1.mlps-change.as-published": -0.25,
    }  # fmt: skip


def test_the_curve_of_layers_starts_where_table_1_does(note) -> None:
    rows = tables.cumulatively_ablated(note, {"corrected": torch.stack([RIGHT, 1 - RIGHT])}, RIGHT)
    assert [(row["layers"], row["value"]) for row in rows] == [(0, 1.0), (1, 0.0)]
    assert recorded(note) == {"fig-msa.1.corrected": 0.0}


def test_heads_have_the_role_that_their_draws_agree_on(note, model) -> None:
    clear, open_ = role((4, 0), "place", place=1.0), role((4, 1), None)
    of_two = labels([clear, open_], [clear, role((4, 1), "colour")], [open_, open_])
    rows = tables.described_heads(note, model, {"two-topic": of_two, "one-topic": of_two})
    assert [row["role, as published"] for row in rows] == ["place", tables.NO_ROLE]
    assert rows[1]["in 3 draws, one topic"] == "–, colour, –"
    assert recorded(note)["heads.with-role.one-topic"] == recorded(note)["heads.l4.h0.explained"] == 0.5


def test_controls_of_roles_are_of_all_topics_and_of_places(note) -> None:
    untrained = labels([role((5, 0), "place"), role((5, 1), "colour"), role((5, 2), None), role((5, 3), None)])
    planted = ["colour", "place", "colour", "place"], np.array([True, True, False, True])
    dealt = np.array([0.5, 0.0, 0.5, 0.0]), np.array([0.0, 0.0, 0.5, 0.0])
    tables.role_controls(note, "one-topic", planted, dealt, untrained)
    found = {id.removeprefix("instruments.roles.").removesuffix(".one-topic"): value
             for id, value in recorded(note).items()}  # fmt: skip
    assert found == {
        "planted": 0.75, "planted.place": 1.0, "dealt": 0.25, "dealt.place": 0.125, "untrained": 0.5,
        "untrained.place": 0.25,
    }  # fmt: skip


def test_the_head_of_a_topic_is_the_one_whose_texts_explain_most_of_it() -> None:
    first, second = role((4, 0), "colour", colour=0.9), role((4, 1), None, ("a lake",), colour=0.1, place=0.4)
    chosen = single.most_about(labels([first, second]), ["colour", "place"], {"colour": [(4, 1), (4, 0)]})
    assert [(one.name, one.head, one.text, one.clear) for one in chosen] == [
        ("colour", (4, 0), "a red duck", True), ("place", (4, 1), "a lake", False),
        ("colour (paper)", (4, 1), "a lake", True),
    ]  # fmt: skip
    assert single.most_about(labels([role((4, 0), None)]), ["colour"], {"colour": [(4, 0)]}) == []


def test_neighbours_are_counted_beside_chance(note) -> None:
    one, has, values = (
        single.Chosen("colour", (4, 0), "a red duck"),
        torch.tensor([0, 2, 3]),
        torch.tensor([0, -1, 1, 1]),
    )
    nearest = torch.tensor([[1], [2], [1]])
    rows = single.retrieved(note, one, {single.BY_HEAD: nearest}, has, values)
    assert [(row["by"], round(row["value"], 3)) for row in rows] == [("the head", 0.667), ("chance", 0.556)]
    (unknown,) = single.retrieved(note, one, {single.BY_HEAD: nearest}, has, None)
    assert np.isnan(unknown["value"]) and unknown["n"] == 3


def test_the_text_above_a_map_is_the_one_most_like_what_the_head_wrote() -> None:
    texts = single.HeadTexts.of(labels([role((4, 0), None)]))
    assert texts.first((4, 0))[0] == "a red duck"
    tokens = torch.tensor(
        [[0.2, 0.0], [0.0, 0.2], [0.0, 0.9], [0.0, 0.1], [0.0, 0.3]]
    )  # the first is the class token's
    text, attribution = texts.closest((4, 0), tokens, 2, (2, 2))
    assert text == "a lake"
    torch.testing.assert_close(attribution, torch.tensor([[0.2, 0.9], [0.1, 0.3]]))
    assert texts.closest((4, 0), tokens, 1, (2, 2))[0] == "a red duck"


def test_each_set_is_silenced_alone_and_by_the_recipe_and_so_are_random_heads() -> None:
    among = [(4, head) for head in range(4)]
    draw = np.random.default_rng(0)
    found = waterbirds.settings({"some": ((4, 1), (3, 0))}, among, 2, draw)
    assert found[waterbirds.BASE] == Ablation()
    assert found["no heads", "recipe", -1] == Ablation(mlps=True, layers=(0, 1, 2, 3))
    assert found["some", "alone", -1] == Ablation(heads=((4, 1), (3, 0)))
    for number in (0, 1):
        (other,) = found["some", "alone", number].heads
        assert other in among and other != (4, 1)
        assert found["some", "recipe", number] == Ablation(True, (0, 1, 2, 3), (other,))
    assert len(found) == 2 + 2 * 3


def test_gains_are_those_of_the_worst_group() -> None:
    groups = torch.tensor([0, 0, 1, 1])
    base, cured = torch.tensor([1, 1, 1, 0]).bool(), torch.ones(4).bool()
    random = [torch.tensor([1, 1, 0, 0]).bool(), torch.tensor([1, 1, 1, 0]).bool()]
    corrected = {waterbirds.BASE: base, (waterbirds.MEASURED, "alone", -1): cured}
    corrected |= {(waterbirds.MEASURED, "alone", number): each for number, each in enumerate(random)}
    silenced = waterbirds.Silenced({"corrected": corrected}, groups, 0)
    assert silenced.gain(waterbirds.MEASURED, "alone", "base").value == 0.5
    assert silenced.gain(waterbirds.MEASURED, "alone", "random").value == 0.75
    assert silenced.gain_of_random(waterbirds.MEASURED, "alone").value == -0.25


def test_the_worst_group_of_every_set_has_a_row_and_random_heads_one_beside_it(note, model) -> None:
    groups = torch.tensor([0, 0, 1, 1])
    half, none = torch.tensor([1, 1, 1, 0]).bool(), torch.tensor([1, 1, 0, 0]).bool()
    name = "place heads, draw 1"
    corrected = {waterbirds.BASE: half, (name, "alone", -1): half, (name, "recipe", -1): none}
    corrected |= {(name, design, number): none for design in ("alone", "recipe") for number in (0, 1)}
    silenced = waterbirds.Silenced({"corrected": corrected}, groups, 0)
    rows, by_group = waterbirds.worst_groups(note, model, silenced, {name: ((4, 0),)}, ["on land", "on water"])
    assert [(row["silenced"], row["and"], row["heads"], row["value"]) for row in rows] == [
        ("base", "", 0, 0.5), (name, "nothing else", 1, 0.5),
        (f"random heads, as many as {name}", "nothing else", 1, 0.0), (name, "MLPs, early layers", 1, 0.0),
    ]  # fmt: skip
    assert [(row["group"], row["value"]) for row in by_group[:2]] == [("on land", 1.0), ("on water", 0.5)]
    found = recorded(note)
    assert found["waterbirds.worst-group.place-heads-draw-1.alone.corrected"] == 0.5
    assert found["waterbirds.worst-group.random-for-place-heads-draw-1.alone.corrected"] == 0.0
    assert found["waterbirds.groups.base.corrected.on-water"] == 0.5
