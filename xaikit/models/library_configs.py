"""How the libraries' own configurations say that images are prepared: open_clip, timm, torchvision, transformers.

Nothing that a configuration asks for is passed over: what `Preprocessed` does not do is refused.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import timm.data
import transformers
from torchvision.models import WeightsEnum
from transformers.image_processing_backends import PilBackend, TorchvisionBackend


def read(config: Any) -> dict[str, Any]:
    """The arguments of `Preprocessed` that a configuration asks for. Raises ValueError as `Preprocessed.of` does."""
    if isinstance(config, WeightsEnum):
        config = config.transforms
    if isinstance(config, functools.partial):
        config = config()
    config = getattr(config, "image_processor", config)
    if (own := getattr(config, "preprocess_cfg", None)) is not None:
        return _of_open_clip({**own, "size": getattr(config, "image_size", own.get("size", 224))})
    if (own := getattr(config, "pretrained_cfg", None)) is not None:
        sides = getattr(getattr(config, "patch_embed", None), "img_size", None)  # of one that was made for another size
        return _of_timm({**own, "input_size": (own["input_size"][0], *sides)} if sides else own)
    if hasattr(config, "resize_size") and hasattr(config, "crop_size"):
        return _of_torchvision(config)
    if isinstance(config, TorchvisionBackend | PilBackend):
        return _of_transformers(config)
    if is_dataclass(config) and not isinstance(config, type):
        config = asdict(config)
    if isinstance(config, Mapping):
        config = dict(config)
        if {"image_processor_type", "image_mean", "do_resize"} & config.keys():
            return _of_transformers(_processor(config))
        if {"crop_pct", "input_size"} & config.keys():
            return _of_timm(config)
        if {"resize_mode", "interpolation", "size"} & config.keys() and "mean" in config:
            return _of_open_clip(config)
    raise ValueError(
        f"The {type(config).__name__} does not say how images are prepared: give a model of open_clip or timm, an "
        "image processor of transformers, or weights of torchvision."
    )


def _only(config: Mapping[str, Any], known: set[str], library: str) -> None:
    """Nothing that a configuration asks for is passed over."""
    if strange := sorted(set(config) - known):
        raise ValueError(f"{library}'s preprocessing has {', '.join(strange)}, which is not known here.")


def _of_open_clip(config: Mapping[str, Any]) -> dict[str, Any]:
    _only(config, {"size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color"}, "open_clip")
    if config.get("mode", "RGB") != "RGB":
        raise ValueError(f"open_clip's preprocessing makes images {config['mode']!r}: only 'RGB' is known here.")
    sides = config["size"] if isinstance(config["size"], list | tuple) else [config["size"]] * 2
    mean, std = (
        [value] * 3 if isinstance(value, float | int) else list(value) for value in (config["mean"], config["std"])
    )
    way, interpolation = config.get("resize_mode") or "shortest", config.get("interpolation") or "bicubic"
    if interpolation not in ("bicubic", "bilinear", "random"):
        raise ValueError(f"Unknown interpolation {interpolation!r} in open_clip's preprocessing.")
    # "random" is for training; and open_clip resizes to what is not square by this one alone.
    if interpolation == "random" or (way == "shortest" and sides[0] != sides[1]):
        interpolation = "bicubic"
    fill = config.get("fill_color") or 0
    fill = [value / 255 for value in ([fill] * 3 if isinstance(fill, int | float) else fill)]
    return {"size": sides, "mean": mean, "std": std, "resize": way, "interpolation": interpolation, "fill": fill}


def _of_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    found = timm.data.resolve_data_config(pretrained_cfg=dict(config))
    channels, *sides = found["input_size"]
    if channels != 3:
        raise ValueError(f"timm's model takes {channels} channels: only colours are known here.")
    ways = {"center": "shortest", "squash": "squash", "border": "longest"}
    if found["crop_mode"] not in ways:
        raise ValueError(f"Unknown crop_mode {found['crop_mode']!r} in timm's preprocessing.")
    return {
        "size": tuple(sides),
        "scale": tuple(math.floor(side / found["crop_pct"]) for side in sides),
        "mean": found["mean"],
        "std": found["std"],
        "resize": ways[found["crop_mode"]],
        "interpolation": found["interpolation"],
        "fill": [round(255 * value) / 255 for value in found["mean"]],
    }


def _of_torchvision(preset: Any) -> dict[str, Any]:
    (size,), (scale,) = preset.crop_size, preset.resize_size
    way = preset.interpolation.value
    return {"size": size, "scale": scale, "mean": preset.mean, "std": preset.std, "interpolation": way}


def _processor(config: dict[str, Any]) -> TorchvisionBackend | PilBackend:
    name = config.get("image_processor_type", "CLIPImageProcessor")
    kind = getattr(transformers, name.removesuffix("Fast"), None)
    if kind is None or not issubclass(kind, TorchvisionBackend | PilBackend):
        raise ValueError(f"transformers has no image processor {name!r} whose steps are known here.")
    return kind(
        **{key: value for key, value in config.items() if key not in ("image_processor_type", "processor_class")}
    )


def _of_transformers(processor: TorchvisionBackend | PilBackend) -> dict[str, Any]:
    name = type(processor).__name__
    for step in ("_preprocess", "preprocess", "resize", "center_crop", "rescale", "normalize"):
        if getattr(type(processor), step) not in (getattr(TorchvisionBackend, step), getattr(PilBackend, step)):
            raise ValueError(f"transformers' {name} has its own {step}, which is not known here.")
    config = {key: value for key, value in processor.to_dict().items() if value is not None}

    def told(key: str) -> Any:
        return config.get(key)

    if told("do_pad") or not told("do_resize") or not told("do_rescale") or told("rescale_offset"):
        raise ValueError(f"transformers' {name} pads, shifts, or does not resize and rescale: not known here.")
    size = {key: value for key, value in dict(told("size")).items() if value}
    cut = told("crop_size") if told("do_center_crop") else None
    if size.keys() == {"height", "width"}:
        scale, way = (size["height"], size["width"]), "squash"
    elif size.keys() == {"shortest_edge"} and cut is not None:
        scale, way = size["shortest_edge"], "shortest"
    else:
        raise ValueError(f"transformers' {name} resizes to {size}, which is not one size or is not known here.")
    modes = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
    if (number := int(told("resample"))) not in modes:
        raise ValueError(f"Unknown interpolation {number} in transformers' {name}.")
    levels = 255 * told("rescale_factor")  # what white becomes
    mean, std = (told("image_mean"), told("image_std")) if told("do_normalize") else ([0.0] * 3, [1.0] * 3)
    return {
        "size": scale if cut is None else (cut["height"], cut["width"]),
        "scale": scale,
        "mean": [value / levels for value in mean],
        "std": [value / levels for value in std],
        "resize": way,
        "interpolation": modes[number],
        "floor": True,
    }
