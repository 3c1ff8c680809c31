"""People at work: the stand-in for IdenProf, with every cue of a profession in a part of its own."""

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from xaikit.arguments import public
from xaikit.world.canvas import Brush, Colour, darker, outline, varied
from xaikit.world.language import article, joined, opened
from xaikit.world.places import PHRASES, PLACES
from xaikit.world.scene import Scene, Value, factor
from xaikit.world.wardrobe import CLOTHING, HEADWEAR, TOOLS

# Each profession with the place where it works, what captions say is worn, and what is in the hand.
WORKPLACES: dict[str, str] = {
    "chef": "kitchen",
    "doctor": "hospital",
    "engineer": "construction site",
    "farmer": "farm",
    "firefighter": "burning house",
    "judge": "courtroom",
    "mechanic": "garage",
    "pilot": "airport",
    "police officer": "street",
    "waiter": "restaurant",
}
WORN: dict[str, str] = {
    "chef": "a tall hat",
    "doctor": "a white coat",
    "engineer": "an orange vest",
    "farmer": "a straw hat",
    "firefighter": "a red helmet",
    "judge": "a black robe",
    "mechanic": "grey overalls",
    "pilot": "a dark suit",
    "police officer": "a blue cap",
    "waiter": "a bow tie",
}
HELD: dict[str, str] = {
    "chef": "pan",
    "doctor": "syringe",
    "engineer": "blueprint",
    "farmer": "pitchfork",
    "firefighter": "axe",
    "judge": "gavel",
    "mechanic": "wrench",
    "pilot": "suitcase",
    "police officer": "stop sign",
    "waiter": "tray",
}
PRESENTATIONS = ("long hair", "short hair")
# What most of a profession look like where looks and profession correlate; it means nothing, so they take turns.
USUAL: dict[str, str] = {name: PRESENTATIONS[k % 2] for k, name in enumerate(WORKPLACES)}

_SKIN: tuple[Colour, ...] = ((248, 214, 184), (232, 188, 150), (204, 152, 110), (160, 108, 74), (110, 74, 52))
_HAIR: tuple[Colour, ...] = ((40, 30, 28), (84, 54, 36), (134, 84, 44), (204, 164, 92), (150, 66, 34))
_BODY, _FACE, _HAIR_LABEL, _CLOTHING, _HEADWEAR, _TOOL = range(1, 7)


@public
@dataclass(frozen=True)
class People(Scene):
    """One person at work, from the waist up.

    `clothing` (with the headwear), `tool` and `background` are cues: each names a profession, and with None follows
    `profession`. `presentation` is described by looks; `face_mask` is a black patch over the face. Skin and hair come
    from the seed. Parts: background, body (neck and hands), face, hair, clothing, headwear, tool, and the person.
    """

    profession: str = factor(*WORKPLACES)
    presentation: str = factor(*PRESENTATIONS, default="short hair")
    clothing: str | None = factor(*WORKPLACES, None, default=None)
    tool: str | None = factor(*WORKPLACES, None, default=None)
    background: str | None = factor(*WORKPLACES, None, default=None)
    face_mask: bool = factor(False, True, default=False)

    PARTS: ClassVar = {
        "background": (0,), "body": (_BODY,), "face": (_FACE,), "hair": (_HAIR_LABEL,), "clothing": (_CLOTHING,),
        "headwear": (_HEADWEAR,), "tool": (_TOOL,), "person": tuple(range(1, 7)),
    }  # fmt: skip
    CLASS: ClassVar = "profession"
    DERIVED: ClassVar = {
        **{cue: tuple(WORKPLACES) for cue in ("clothing", "tool", "background")}, "place": tuple(WORKPLACES.values())
    }  # fmt: skip
    PROMPTS: ClassVar[dict[str, dict[Value, str]]] = {
        "profession": {name: f"a photo of {article(name)}" for name in WORKPLACES},
        "presentation": {looks: f"a photo of a person with {looks}" for looks in PRESENTATIONS},
        "clothing": {name: f"a photo of a person wearing {WORN[name]}" for name in WORKPLACES},
        "tool": {name: f"a photo of a person holding {article(HELD[name])}" for name in WORKPLACES},
        "background": {name: f"a photo of a person {PHRASES[place][0]}" for name, place in WORKPLACES.items()},
        "face_mask": {False: "a photo of a person with a clear face", True: "a photo of a person with a hidden face"},
    }

    @property
    def factors(self) -> dict[str, Value]:
        """Every factor, the cues resolved to the profession that they show, and `place`, where the person is."""
        cues = {cue: getattr(self, cue) or self.profession for cue in ("clothing", "tool", "background")}
        return {**super().factors, **cues, "place": WORKPLACES[str(cues["background"])]}

    def _paint(self, brush: Brush) -> None:
        cues = self.factors
        PLACES[str(cues["place"])](brush, self.stream(f"background {cues['place']}"))
        pose, looks = self.stream("pose"), self.stream("looks")
        flip, x, y = pose.random() < 0.5, pose.uniform(0.26, 0.54), pose.uniform(0.3, 0.5)
        # Away from the side of the hand, so that the tool is in the picture.
        b = brush.at(1 - x if flip else x, y, pose.uniform(0.64, 0.98), pose.uniform(-0.1, 0.1), flip)
        raised = pose.uniform(-0.05, 0.05)
        skin, hair = varied(looks.choice(_SKIN), looks, 6), varied(looks.choice(_HAIR), looks, 8)
        body, clothing = b.labelled(_BODY), b.labelled(_CLOTHING)
        if self.presentation == "long hair":
            b.labelled(_HAIR_LABEL).polygon(_LONG_BACK, darker(hair, 0.2), darker(hair, 0.6))
        body.box(-0.06, 0.08, 0.06, 0.24, darker(skin, 0.12))
        CLOTHING[str(cues["clothing"])](clothing, self.stream("clothing"), raised)
        self._paint_head(b, skin, hair, looks)
        HEADWEAR[str(cues["clothing"])](b.labelled(_HEADWEAR))
        hand = b.at(0.35, 0.36 + raised)
        TOOLS[str(cues["tool"])](hand.labelled(_TOOL), self.stream("tool"))
        hand.labelled(_BODY).ellipse(0, 0, 0.045, 0.05, skin, darker(skin, 0.5))

    def _paint_head(self, b: Brush, skin: Colour, hair: Colour, looks: Random) -> None:
        face, top, edge = b.labelled(_FACE), b.labelled(_HAIR_LABEL), darker(hair, 0.6)
        smile, eyes = looks.uniform(0.0, 0.025), looks.choice(((50, 36, 30), (50, 80, 110), (60, 84, 56)))
        for side in (-1, 1):
            face.ellipse(side * 0.125, 0.01, 0.026, 0.036, skin, darker(skin, 0.5))
        face.ellipse(0, 0, 0.125, 0.155, skin, darker(skin, 0.5))
        for side in (-1, 1):
            face.ellipse(side * 0.05, -0.01, 0.026, 0.019, (246, 246, 244))
            face.ellipse(side * 0.05, -0.01, 0.014, 0.017, eyes)
            face.line(((side * 0.025, -0.045), (side * 0.075, -0.05)), 0.013, darker(hair, 0.2))
        face.polygon(((0.0, 0.0), (0.018, 0.045), (-0.014, 0.045)), darker(skin, 0.2))
        face.line(((-0.045, 0.082), (0, 0.09 + smile), (0.045, 0.082)), 0.016, (160, 60, 60))
        if self.presentation == "long hair":
            for side in (False, True):
                top.at(0, 0, flip=side).polygon(_STRAND, hair, edge)
        top.polygon(_CAP_OF_HAIR, hair, edge)
        if self.face_mask:
            face.box(-0.15, -0.1, 0.15, 0.16, (0, 0, 0))

    def _caption(self, random: Random, everything: bool) -> str:
        cues = self.factors
        names = ("profession", "presentation", "clothing", "tool", "background", "face_mask")
        named = set(names) if everything else set(random.sample(names, random.choice((1, 2, 2))))
        if random.random() < 0.5:
            named.add("profession")
        looks = [self.presentation] if "presentation" in named else []
        if "face_mask" in named:
            looks.append("a hidden face" if self.face_mask else "a clear face")
        phrase = joined(
            article(self.profession if "profession" in named else "person"),
            f"with {' and '.join(looks)}" if looks else None,
            f"wearing {WORN[str(cues['clothing'])]}" if "clothing" in named else None,
            f"holding {article(HELD[str(cues['tool'])])}" if "tool" in named else None,
            random.choice(PHRASES[str(cues["place"])]) if "background" in named else None,
        )
        return opened(phrase, random)


_LONG_BACK = outline(
    (0.0, -0.19), (0.13, -0.13), (0.17, 0.03), (0.2, 0.26), (0.1, 0.32), (-0.1, 0.32), (-0.2, 0.26), (-0.17, 0.03),
    (-0.13, -0.13),
)  # fmt: skip
_STRAND = outline(
    (0.06, -0.16), (0.13, -0.11), (0.165, 0.04), (0.2, 0.24), (0.17, 0.36), (0.1, 0.35), (0.12, 0.2), (0.1, 0.0)
)
_CAP_OF_HAIR = outline(
    (-0.13, 0.0), (-0.145, -0.08), (-0.09, -0.17), (0.0, -0.195), (0.09, -0.17), (0.145, -0.08), (0.13, 0.0),
    (0.108, -0.06), (0.06, -0.1), (0.0, -0.09), (-0.07, -0.1), (-0.11, -0.06),
)  # fmt: skip
