"""The page of an audit: one file with all that it shows, without a network."""

import base64
import io
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import torch
from jinja2 import Environment, FileSystemLoader, select_autoescape
from PIL import Image
from torch import Tensor, nn

from xaikit.audit.findings import Findings, removal_table, verdict_of
from xaikit.audit.questions import LEAST, Effect, examples
from xaikit.metrics.intervals import Interval
from xaikit.storage import paths

SHOWN, WIDEST, QUALITY = 3, 224, 80  # examples of a cue, pixels of a picture, of WebP
OTHERS = 8  # changes of which one example is shown, though nothing was found
BOARD = Path("figures/full/05_which_explanation/leaderboard.csv")
HERE = ("intervention", "variance of the margin", "perturbation", "B2T")  # that every page has
BY_WORDS = {"surgery": "network surgery", "words": "words of TExplain", "heads": "heads and TextSpan"}  # that some have
LIBRARIES = ("xaikit", "torch", "torchvision", "timm", "open_clip_torch", "transformers")


def render(audit: Findings) -> str:
    """The page, as text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"share": _share, "interval": _interval, "p": _p}
    accuracy = audit.by_class
    classes = sorted(accuracy.groups.items(), key=lambda item: item[1].value) if accuracy else []
    return environment.get_template("audit.html").render(
        audit=audit, name=audit.loaded.source.rpartition("/")[2], summary=audit.summary(), seen=_seen(audit),
        effects=[_row(each) for each in audit.effects], axis=_axis(audit.effects), least=LEAST,
        cues=[_examples(audit, each) for each in audit.claimed[:SHOWN]],
        others=[_examples(audit, each, 1) for each in audit.effects if not each.claimed and not each.why][:OTHERS],
        accuracy=accuracy, classes=classes[:10],
        more_classes=max(0, len(classes) - 10), removals=removal_table(audit.removals).to_dict("records"),
        maps=_maps(audit), readings=_readings(audit), board=_board(audit), mends=audit.mends, versions=_versions(),
    )  # fmt: skip


def _share(value: float) -> str:
    return "–" if value != value else f"{value:.0%}".replace("-0%", "0%") if abs(value) < 0.005 else f"{value:.0%}"


def _interval(value: Interval) -> str:
    return f"{_share(value.value)} [{_share(value.low)}, {_share(value.high)}]"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in LIBRARIES}


def _picture(image: Tensor) -> str:
    """A picture [3, height, width] in [0, 1] or bytes, as a data address."""
    pixels = image if image.dtype == torch.uint8 else image.clamp(0, 1).mul(255).round().byte()
    drawn = Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
    drawn.thumbnail((WIDEST, WIDEST))
    if max(drawn.size) < WIDEST // 2:  # a small one would be seen as a stamp
        factor = WIDEST // 2 // max(drawn.size) + 1
        drawn = drawn.resize((drawn.width * factor, drawn.height * factor), Image.Resampling.NEAREST)
    content = io.BytesIO()
    drawn.save(content, "webp", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode()


def _seen(audit: Findings) -> list[dict[str, str]]:
    rows = np.linspace(0, len(audit.pictures.seen) - 1, 4).round().astype(int)
    return [
        {"source": _picture(audit.pictures.seen.pixels[row]), "id": audit.pictures.ids[row],
         "answer": audit.name(int(audit.answers[row]))}
        for row in rows
    ]  # fmt: skip


def _row(effect: Effect) -> dict[str, Any]:
    row: dict[str, Any] = {"effect": effect, "verdict": verdict_of(effect), "claimed": effect.claimed}
    if not effect.why:
        row |= {"net": effect.net, "shares": effect.shares, "strongest": effect.strongest}
    return row


def _axis(effects: Sequence[Effect]) -> tuple[float, float]:
    """The ends of the intervals' axis, in tenths."""
    nets = [each.net for each in effects if not each.why]
    low = min([0.0, *(net.low for net in nets)])
    high = max([2 * LEAST, *(net.high for net in nets)])
    return np.floor(low * 10) / 10, np.ceil(high * 10) / 10


def _examples(audit: Findings, effect: Effect, most: int = SHOWN) -> dict[str, Any]:
    """Pictures before and after a change, and after its control: those that it turned, or else the first."""
    first = len(audit.pictures.seen)  # of several shards, whose pictures are exchanged among themselves
    turned = audit.look_at(effect, first) if effect.claimed else effect.rows.tolist()
    rows = [row for row in turned if row < first][:most]
    concept = next(each for each in audit.concepts if each.change and each.name == effect.concept)
    changed = examples(audit.pictures.seen, concept, audit.concepts, audit.answers[:first], rows, audit.seed)
    device = next(iter(audit.loaded.model.parameters()), torch.zeros(1)).device
    shown = []
    with torch.no_grad():
        answers = {name: audit.loaded.model(images.to(device)).argmax(1).tolist() for name, images in changed.items()}
    for place, row in enumerate(rows):
        columns = [("as it is", audit.pictures.seen.pixels[row], int(audit.answers[row]))]
        columns += [(name, images[place], answers[name][place]) for name, images in changed.items()]
        shown.append({
            "id": audit.pictures.ids[row],
            "columns": [
                {"name": name, "source": _picture(image), "answer": audit.name(answer)}
                for name, image, answer in columns
            ],
        })  # fmt: skip
    return {"concept": effect.concept, "rows": shown}


def _maps(audit: Findings) -> dict[str, Any] | None:
    """Maps over some pictures, and what they say of each region, or why they say nothing."""
    found = audit.maps
    if found is None:
        return None
    colours = matplotlib.colormaps["cividis"]
    shown = []
    for row, each in list(zip(found.rows.tolist(), found.maps, strict=True))[:4]:
        picture = audit.pictures.seen.pixels[row].float() / 255
        level = (each / each.amax().clamp_min(1e-9)).numpy()
        layer = torch.from_numpy(colours(level)[..., :3]).permute(2, 0, 1).float()
        shown.append({"id": audit.pictures.ids[row], "source": _picture(0.45 * picture + 0.55 * layer),
                      "plain": _picture(picture), "answer": audit.name(int(audit.answers[row]))})  # fmt: skip
    regions = [
        {"name": name, "beyond": found.beyond[name], "untrained": found.untrained.get(name), "why": found.why(name)}
        for name in found.beyond
    ]
    return {"method": found.method, "shown": shown, "regions": regions, "n": len(found.rows)}


def _readings(audit: Findings) -> dict[str, Any] | None:
    """The tables of what words say, a row each."""
    found = audit.readings
    if found is None:
        return None
    tables = {name: getattr(found, name) for name in ("concepts", "surgery", "words", "heads")}
    return {**{name: table.to_dict("records") for name, table in tables.items()}, "missing": found.missing}


def _board(audit: Findings) -> dict[str, Any] | None:
    """What notebook 05 found of methods, those of this page first, and the nearest of its kinds of network."""
    loaded = audit.loaded
    file = paths.shipped(paths.ROOT) / BOARD
    if not file.is_file():
        return None
    table = pd.read_csv(file, keep_default_na=False, na_values=[""])  # a form is called null
    convolutions = sum(isinstance(module, nn.Conv2d) for module in loaded.model.modules())
    kind = "a convolutional network" if convolutions > 2 else "a vision transformer" if loaded.gradients else ""
    rows = table.sort_values("rank", ascending=False).to_dict("records")
    asked = [name for table, name in BY_WORDS.items() if audit.readings and len(getattr(audit.readings, table))]
    return {"rows": rows, "here": [row for row in rows if row["method"] in (*HERE, *asked)], "kind": kind}
