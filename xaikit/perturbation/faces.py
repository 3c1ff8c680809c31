"""Faces in photographs: boxes as data, from a file or from a detector of your choice."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from xaikit.arguments import Device, Probability, public
from xaikit.storage.files import write_text

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels, from the top left corner
Detector = Callable[[UInt8[np.ndarray, "height width 3"]], list[Box]]


@public
def mtcnn(device: Device = "cpu", least: Probability = 0.9) -> Detector:
    """The detector of the paper: MTCNN, with the weights that come with facenet-pytorch.

    Faces with a probability below `least` are left out, and boxes are cut off at the photograph's edges.
    Raises ImportError, which says how to install it, where facenet-pytorch is missing.
    Source: Zhang et al. (2016).
    """
    try:
        from facenet_pytorch import MTCNN
    except ImportError as error:
        # Its pins ask for a numpy, a Pillow and a torch of years ago, but it works with today's.
        raise ImportError("facenet-pytorch is missing: pip install --no-deps facenet-pytorch==2.6.0") from error
    network = MTCNN(keep_all=True, device=device)

    def detect(photograph: UInt8[np.ndarray, "height width 3"]) -> list[Box]:
        height, width = photograph.shape[:2]
        if min(height, width) < network.min_face_size:  # it would fail where not even one face has room
            return []
        boxes, probabilities = network.detect(photograph)
        if boxes is None:
            return []
        inside = np.clip(boxes.astype(float), 0, [width, height, width, height])
        rows = zip(inside.tolist(), probabilities.tolist(), strict=True)
        return [(x0, y0, x1, y1) for (x0, y0, x1, y1), p in rows if p >= least and x1 > x0 and y1 > y0]

    return detect


@public
def find_faces(
    photographs: Iterable[tuple[str, UInt8[np.ndarray, "_ _ 3"]]], detector: Detector
) -> dict[str, list[Box]]:
    """The boxes of the faces in each photograph, by its name; none where the detector sees none."""
    found = {name: detector(photograph) for name, photograph in photographs}
    for name, boxes in found.items():
        if not isinstance(boxes, list) or any(len(box) != 4 for box in boxes):
            raise ValueError(f"The detector gives {boxes!r} for {name}: let it give a list of (x0, y0, x1, y1).")
    return found


@public
def write_boxes(file: Path, boxes: Mapping[str, Sequence[Box]]) -> None:
    """Write the boxes of each photograph as JSON, whole or not at all."""
    write_text(file, json.dumps({name: [list(box) for box in found] for name, found in boxes.items()}, indent=1) + "\n")


@public
def read_boxes(file: Path) -> dict[str, list[Box]]:
    """Read what `write_boxes` wrote. Raises ValueError where the file holds something else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        found = {
            name: [(float(a), float(b), float(c), float(d)) for a, b, c, d in boxes] for name, boxes in content.items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{file} holds no boxes ({error}): it maps names to lists of [x0, y0, x1, y1].") from error
    for name, boxes in found.items():
        for x0, y0, x1, y1 in boxes:
            if not (x0 < x1 and y0 < y1):
                raise ValueError(
                    f"A box of {name} in {file} is {(x0, y0, x1, y1)}: give x0 < x1 and y0 < y1, in pixels."
                )
    return found
