"""Writing in photographs: boxes by a detector that is installed, kept and read as those of faces are."""

import numpy as np
from jaxtyping import UInt8

from xaikit.perturbation.faces import Box, Detector


def craft(device: str = "cpu") -> Detector:
    """CRAFT as easyocr has it, which fetches its weights when it is first used.

    Boxes are cut off at the photograph's edges; of slanted ones the upright box around them is given.
    Raises ImportError, which says how to install it, where easyocr is missing. Source: Baek et al. (2019).
    """
    try:
        from easyocr import Reader
    except ImportError as error:
        raise ImportError("easyocr is missing: pip install easyocr") from error
    reader = Reader(["en"], gpu=device != "cpu", recognizer=False, verbose=False)

    def detect(photograph: UInt8[np.ndarray, "height width 3"]) -> list[Box]:
        height, width = photograph.shape[:2]
        upright, slanted = (found[0] for found in reader.detect(photograph))
        corners = [((x0, x1), (y0, y1)) for x0, x1, y0, y1 in upright]
        corners += [tuple(zip(*points, strict=True)) for points in slanted]
        boxes = []
        for xs, ys in corners:
            x0, x1 = (float(np.clip(x, 0, width)) for x in (min(xs), max(xs)))
            y0, y1 = (float(np.clip(y, 0, height)) for y in (min(ys), max(ys)))
            if x1 > x0 and y1 > y0:
                boxes.append((x0, y0, x1, y1))
        return boxes

    return detect
