"""Drawn scenes whose every cause is known: factors, captions, masks, boxes and exact counterfactuals."""

from xaikit.world.descriptions import class_descriptions, descriptions, one_topic_descriptions, one_topic_phrases
from xaikit.world.scene import Drawing, Scene
from xaikit.world.scene_birds import Birds
from xaikit.world.scene_cars import Cars
from xaikit.world.scene_nine import Nine
from xaikit.world.scene_people import People
from xaikit.world.sets import FAMILIES, SPLITS, SceneSet, birds, cars, nine, people

__all__ = [
    "FAMILIES",
    "SPLITS",
    "Birds",
    "Cars",
    "Drawing",
    "Nine",
    "People",
    "Scene",
    "SceneSet",
    "birds",
    "cars",
    "class_descriptions",
    "descriptions",
    "nine",
    "one_topic_descriptions",
    "one_topic_phrases",
    "people",
]
