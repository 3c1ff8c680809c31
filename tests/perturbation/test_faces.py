"""Faces: boxes that survive a file, any detector, and MTCNN on a photograph of six people."""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from real_files import BESIDE

from xaikit.perturbation.faces import find_faces, mtcnn, read_boxes, write_boxes

SIX_FACES = BESIDE / "mtcnn" / "multiface.jpg"
NOSES = ((266, 304), (462, 192), (592, 104), (658, 248), (760, 524), (908, 500))  # of the six, as one sees them
BOXES = {
    "chef/ä.jpg": [(0.0, 1.5, 10.25, 12.0), (3.0, 4.0, 5.0, 6.0)],
    "empty.jpg": [],
    "b.jpg": [(0.1, 0.2, 0.3, 0.4)],
}


def fake_facenet(monkeypatch: pytest.MonkeyPatch, rows: list[tuple[float, ...]] | None) -> None:
    """A facenet-pytorch that always finds `rows` of a box and its probability, as objects like the real one's."""

    class Network:
        min_face_size = 20

        def __init__(self, keep_all: bool, device: str) -> None:
            assert keep_all and device == "cpu"

        def detect(self, photograph: np.ndarray) -> tuple:
            if min(photograph.shape[:2]) < self.min_face_size:
                raise ValueError("torch.cat(): expected a non-empty list of Tensors")
            if rows is None:
                return None, [None]
            found = np.array(rows, dtype=np.float32).astype(object)
            return found[:, :4], found[:, 4]

    module = ModuleType("facenet_pytorch")
    module.MTCNN = Network
    monkeypatch.setitem(sys.modules, "facenet_pytorch", module)


def photograph(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 3), dtype=np.uint8)


def test_boxes_survive_a_file(tmp_path) -> None:
    write_boxes(tmp_path / "deep" / "boxes.json", BOXES)
    assert read_boxes(tmp_path / "deep" / "boxes.json") == BOXES
    assert list(read_boxes(tmp_path / "deep" / "boxes.json")) == list(BOXES)


def test_whole_numbers_are_read_as_numbers_of_pixels(tmp_path) -> None:
    (tmp_path / "boxes.json").write_text('{"a.jpg": [[0, 1, 20, 30]]}')
    ((box,),) = read_boxes(tmp_path / "boxes.json").values()
    assert box == (0, 1, 20, 30) and all(isinstance(value, float) for value in box)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[[0, 1, 2, 3]]",
        b'{"a.jpg": null}',
        b'{"a.jpg": [0, 1, 2, 3]}',
        b'{"a.jpg": [[0, 1, 2]]}',
        b'{"a.jpg": [[0, 1, 2, "right"]]}',
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, content) -> None:
    (tmp_path / "boxes.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"boxes\.json holds no boxes \(.*\): it maps names to lists of \[x0, y0, x1"):
        read_boxes(tmp_path / "boxes.json")


@pytest.mark.parametrize("box", ["[5, 0, 5, 9]", "[0, 9, 5, 2]", "[0, 0, NaN, 9]"])
def test_a_box_without_an_inside_is_named(tmp_path, box) -> None:
    (tmp_path / "boxes.json").write_text(f'{{"a.jpg": [[0, 0, 1, 1]], "b.jpg": [{box}]}}')
    with pytest.raises(ValueError, match=r"A box of b\.jpg in .*boxes\.json is \(.*\): give x0 < x1 and y0 < y1"):
        read_boxes(tmp_path / "boxes.json")


def test_any_detector_will_do() -> None:
    """One that boxes the left half of wide photographs and sees nothing in others."""

    def detector(pixels: np.ndarray) -> list[tuple[float, float, float, float]]:
        height, width = pixels.shape[:2]
        return [(0.0, 0.0, width / 2, float(height))] if width > height else []

    shapes = {"wide.jpg": (4, 10), "tall.jpg": (10, 4), "wider.jpg": (3, 30)}
    found = find_faces(((name, photograph(*shape)) for name, shape in shapes.items()), detector)
    assert found == {"wide.jpg": [(0.0, 0.0, 5.0, 4.0)], "tall.jpg": [], "wider.jpg": [(0.0, 0.0, 15.0, 3.0)]}


def test_without_facenet_pytorch_it_is_said_how_to_install_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)
    with pytest.raises(
        ImportError, match=r"^facenet-pytorch is missing: pip install --no-deps facenet-pytorch==2\.6\.0$"
    ):
        mtcnn()


def test_boxes_are_cut_off_at_the_edges_and_unlikely_faces_left_out(monkeypatch) -> None:
    rows = [
        (-5.5, 2, 10, 12, 0.99),
        (30, 20, 45, 33, 0.95),
        (1, 1, 9, 9, 0.85),  # unlikely
        (41, 3, 50, 9, 0.99),  # outside: nothing is left of it
    ]
    fake_facenet(monkeypatch, rows)
    assert mtcnn()(photograph(30, 40)) == [(0, 2, 10, 12), (30, 20, 40, 30)]
    assert mtcnn(least=0.5)(photograph(30, 40)) == [(0, 2, 10, 12), (30, 20, 40, 30), (1, 1, 9, 9)]
    assert all(isinstance(value, float) for box in mtcnn()(photograph(30, 40)) for value in box)


@pytest.mark.parametrize(("rows", "height"), [(None, 30), ([(1, 1, 9, 9, 0.99)], 19)])
def test_no_faces_are_found_where_there_are_none_or_no_room_for_one(monkeypatch, rows, height) -> None:
    fake_facenet(monkeypatch, rows)
    assert mtcnn()(photograph(height, 40)) == []


@pytest.mark.skipif(not SIX_FACES.is_file(), reason=f"there is no photograph at {SIX_FACES}")
@pytest.mark.skipif(find_spec("facenet_pytorch") is None, reason="facenet-pytorch is not installed")
def test_mtcnn_finds_the_six_faces(tmp_path: Path) -> None:
    with Image.open(SIX_FACES) as picture:
        pixels = np.array(picture.convert("RGB"))
    found = find_faces([("six", pixels), ("none", photograph(64, 64)), ("small", photograph(12, 64))], mtcnn())
    assert len(found["six"]) == 6 and found["none"] == found["small"] == []
    height, width = pixels.shape[:2]
    assert all(0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height for x0, y0, x1, y1 in found["six"])
    for x, y in NOSES:
        assert sum(x0 < x < x1 and y0 < y < y1 for x0, y0, x1, y1 in found["six"]) == 1
    write_boxes(tmp_path / "boxes.json", found)
    assert read_boxes(tmp_path / "boxes.json") == found
