"""IdenProf, photographs of ten professions, for paper 3 (Agarwal)."""

from pathlib import Path

from xaikit.arguments import public
from xaikit.datasets.class_folders import Photographs, read_class_folders

# As the folders are named; the texts say "police officer" in place of "police".
PROFESSIONS = (
    "chef", "doctor", "engineer", "farmer", "firefighter", "judge", "mechanic", "pilot", "police", "waiter",
)  # fmt: skip


@public
def read_professions(folder: Path, split: str) -> Photographs:
    """The photographs of `split`, train (900 a class) or test (200 a class), of the unpacked release.

    The release's archive unpacks to idenprof/train and idenprof/test; `folder` is that idenprof. Raises ValueError for
    another split and where the classes are not all ten and no other, FileNotFoundError where the split or the
    photographs of a class are missing.
    """
    if split not in ("train", "test"):
        raise ValueError(f"IdenProf has no split {split!r}: choose train or test.")
    return read_class_folders(folder / split, PROFESSIONS, exif=False)
