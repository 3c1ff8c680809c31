"""Every loader of pictures reads them through one gate, and says what was changed and what was passed over."""

import ast
import json
from pathlib import Path

import pytest
from PIL import Image

from xaikit.companion.record import Record
from xaikit.datasets import intake
from xaikit.datasets.captions import read_coco
from xaikit.datasets.class_folders import read_class_folders
from xaikit.datasets.imagenet import read_validation, wordnet_ids
from xaikit.datasets.images import ALPHA, FRAMES
from xaikit.datasets.waterbirds import read_waterbirds
from xaikit.storage.paths import ROOT

LOADERS = [file for file in (ROOT / "xaikit" / "datasets").glob("*.py") if file.name != "images.py"]


def transparent(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA", (6, 5), (0, 0, 0, 0)).save(path, "PNG")


@pytest.mark.parametrize("file", LOADERS, ids=lambda file: file.stem)
def test_loaders_open_pictures_by_the_gate_alone_and_keep_what_was_done(file: Path) -> None:
    for call in (node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)):
        called = ast.unparse(call.func)
        assert called not in ("Image.open", "imread", "decode_image")
        if called == "read_image" and not _tries(file, call):
            assert {keyword.arg for keyword in call.keywords} & {"intake", "changes"}, f"{file}:{call.lineno}"


def _tries(file: Path, call: ast.Call) -> bool:
    """Whether the call only tries whether a picture can be read."""
    return any(
        isinstance(node, ast.Expr) and node.value.lineno == call.lineno
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Expr)
    )


def imagenet(root: Path):
    for number, wordnet_id in enumerate(wordnet_ids()[:2]):
        transparent(root / wordnet_id / f"{number}.png")
    (root / wordnet_ids()[0] / "._0.png").write_bytes(b"")
    transparent(root / "unsorted.png")
    return read_validation(root, subset=True)


def flat_waterbirds(root: Path):
    transparent(root / "a" / "b.png")
    transparent(root / "a" / "c.png")
    (root / "a" / "._b.png").write_bytes(b"")
    header = "img_id,img_filename,y,split,place\n"
    (root / "metadata.csv").write_text(f"{header}1,a/b.png,0,2,1\n", encoding="utf-8")
    return read_waterbirds(root, check=False)


def coco(root: Path):
    for name in ("1.png", "2.png"):
        transparent(root / "val2017" / name)
    (root / "annotations").mkdir()
    content = {"images": [{"id": 1, "file_name": "1.png"}], "annotations": [{"image_id": 1, "caption": "a dog"}]}
    (root / "annotations" / "captions_val2017.json").write_text(json.dumps(content), encoding="utf-8")
    return read_coco(root, "val")


def folders(root: Path):
    transparent(root / "cat" / "1.png")
    transparent(root / "2.png")
    return read_class_folders(root)


READERS = {  # and what of what they are given is passed over
    imagenet: ["they lie beside the classes' folders (unsorted.png)", "hidden"],
    flat_waterbirds: ["metadata.csv does not list them (a/c.png)", "hidden (a/._b.png)"],
    coco: ["they have no caption (2.png)"],
    folders: ["they lie beside the classes' folders (2.png)"],
}


@pytest.mark.filterwarnings("ignore:.*that are not read")
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_data_sets_say_what_was_changed_and_what_was_passed_over(reader, tmp_path) -> None:
    photographs = reader(tmp_path)
    assert all(photograph.image.min() == 255 for photograph in photographs)  # over white
    assert photographs.intake.changes == {ALPHA: len(photographs)}
    report = photographs.intake.report()
    for said in READERS[reader]:
        assert said in report
    assert report.count("not read") == len(READERS[reader])
    assert photographs.select([0]).intake is photographs.intake


def test_no_picture_is_passed_over_without_a_warning(tmp_path) -> None:
    for reader, said in READERS.items():
        if said:
            with pytest.warns(UserWarning, match="that are not read"):
                reader(tmp_path / reader.__name__)


@pytest.mark.filterwarnings("ignore:.*that are not read")
def test_a_record_keeps_the_report_of_the_data_sets_of_its_run(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("XAIKIT_OUT", str(tmp_path / "out"))
    earlier = folders(tmp_path / "earlier")
    list(earlier)
    record = Record("01_caption_driven", "mini", 0)
    photographs = folders(tmp_path / "mine")
    Image.new("L", (4, 4)).save(
        tmp_path / "mine" / "cat" / "1.png", "TIFF", save_all=True, append_images=[Image.new("L", (4, 4))]
    )
    assert list(photographs) and intake.opened()[-1] is photographs.intake
    kept = json.loads(record.save().read_text(encoding="utf-8"))
    assert kept["remarks"] == [photographs.intake.report()]
    assert f"1 {FRAMES} (cat/1.png); 1 not read, they lie beside the classes' folders (2.png)." in kept["remarks"][0]
    assert capsys.readouterr().out.count(kept["remarks"][0]) == 1
