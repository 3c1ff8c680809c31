"""What became of a data set's pictures on their way in: which were changed, which were passed over, and why.

Every loader keeps one `Intake`. A record takes down the sentences of those that were opened while it was there.
"""

import warnings
from collections.abc import Iterable
from pathlib import Path

HIDDEN = "hidden"  # as systems leave "._a.jpg" beside "a.jpg"; said in the report, without a warning
_FIRST = 5  # files of a kind are named


class Intake:
    """The pictures of the data set in `folder` that were changed when they were read, and the files not read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._changed: dict[str, dict[str, None]] = {}
        self._skipped: dict[str, dict[str, None]] = {}
        _OPENED.append(self)

    @property
    def changes(self) -> dict[str, int]:
        """How many pictures were changed, by what was done (`images.TURNED`, …); one that is read twice counts once."""
        return {change: len(names) for change, names in self._changed.items()}

    @property
    def skipped(self) -> dict[str, int]:
        """How many files were passed over, by the reason."""
        return {reason: len(names) for reason, names in self._skipped.items()}

    def change(self, name: str, changes: Iterable[str]) -> None:
        """Note what was done to a picture."""
        for each in changes:
            self._changed.setdefault(each, {})[name] = None

    def skip(self, reason: str, paths: Iterable[Path]) -> None:
        """Note files that are passed over, if there are any, and warn of them unless they are merely hidden."""
        names = [path.relative_to(self.folder).as_posix() for path in paths]
        if names:
            self._skipped.setdefault(reason, {}).update(dict.fromkeys(names))
            if reason != HIDDEN:
                said = (
                    f"{self.folder} holds {len(names)} files or folders that are not read: {reason} ({_some(names)})."
                )
                warnings.warn(said, stacklevel=3)

    def report(self) -> str:
        """All of it in one sentence; nothing where every picture came in as it is."""
        said = [f"{len(names)} {change} ({_some([*names])})" for change, names in self._changed.items()]
        said += [f"{len(names)} not read, {reason} ({_some([*names])})" for reason, names in self._skipped.items()]
        return f"Of the files in {self.folder.name}: {'; '.join(said)}." if said else ""


_OPENED: list[Intake] = []


def opened(first: int = 0) -> list[Intake]:
    """The intakes of this process from the `first` on, in the order in which they were opened."""
    return _OPENED[first:]


def _some(names: list[str]) -> str:
    return ", ".join(names[:_FIRST]) + (", …" if len(names) > _FIRST else "")
