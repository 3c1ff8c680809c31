"""How far a run has come, kept on disk while it goes on: of a run that fails or is killed it tells where, and what for.

Beside the folder NAME.unfinished, which holds what the run has finished, lies NAME.run.json. It is removed when the
run has ended well; so a notebook that has one and is not running was stopped. The seconds of its sections stay, for the
next run to say how long it will take.
"""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xaikit.storage.files import write_text

NUMBERS, SO_FAR = "numbers.json", "unfinished.json"  # a record, and what there was of one when it was last added to


def record_text(record: Mapping[str, Any]) -> str:
    """The text of a numbers.json."""
    return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


@dataclass
class Progress:
    """One run of a notebook: its files are `file` and those of the same name with other suffixes."""

    file: Path
    sections: Sequence[str] = ()
    began: float = field(default_factory=time.time)
    section: str = ""
    seconds: dict[str, float] = field(default_factory=dict)  # of the sections that are done
    stopped: str | None = None  # why it did not end well, where it could still say so

    @property
    def folder(self) -> Path:
        """What the run has finished."""
        return self.file.with_name(self.file.name.removesuffix(".run.json") + ".unfinished")

    def reach(self, section: str, seconds: float) -> None:
        """Go on to the next section, so many seconds after the beginning; an empty one is the end."""
        if self.section:
            own = round(seconds - sum(self.seconds.values()), 1)
            self.seconds[self.section] = round(self.seconds.get(self.section, 0) + own, 1)
        self.section = section or self.section
        with suppress(OSError):  # a run is not lost for want of its progress
            self._write()

    def stop(self, why: str) -> None:
        """Say why the run ends here, empty where it was interrupted, and mark what it has finished."""
        self.stopped = why
        with suppress(OSError):
            self._write()
        if not self.folder.is_dir():
            return
        with suppress(OSError):
            record = _read(self.folder / SO_FAR) or _read(self.folder / NUMBERS) or {}
            record |= {"unfinished": self.where, "artefacts": self.artefacts}
            write_text(self.folder / NUMBERS, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
            (self.folder / SO_FAR).unlink(missing_ok=True)

    def end(self) -> None:
        """The run has ended well: nothing of it stays but the seconds, for the next one."""
        self.file.unlink(missing_ok=True)

    @property
    def where(self) -> str:
        """Where the run stopped."""
        return f"{'failed' if self.stopped else 'stopped'} in section {self.section or 'the start'!r}"

    @property
    def artefacts(self) -> list[str]:
        """The names of the figures and tables that are whole."""
        files = self.folder.glob("[!.]*")
        return sorted(file.name for file in files if file.is_file() and file.name not in (NUMBERS, SO_FAR))

    def forecast(self, cache: Path) -> str:
        """What a run that follows this one goes on from, and how long it will take."""
        took = sum(self.seconds.values(), 0.0)
        steps = [file for file in cache.rglob("*.safetensors") if file.stat().st_mtime >= self.began]
        said = f"{self.where}, with {len(self.seconds)} of {len(self.sections)} sections done in {duration(took)}"
        if steps:
            size = sum(file.stat().st_size for file in steps) / 1e6
            names = ", ".join(sorted({file.stem.rpartition("-")[0] for file in steps}))
            said += f"; {some(steps, 'step')} since kept in {cache} ({size:,.0f} MB: {names}), to be read, not computed"
        else:
            said += f"; no step of it is in {cache}"
        known = self._seconds_known()
        ahead = [section for section in self.sections if section not in self.seconds]
        if unknown := [section for section in ahead if section not in known]:
            return f"{said}; how long it takes from {unknown[0]!r} on is not known yet"
        least, most = sum((known[section] for section in ahead), 0.0), sum(known.values(), 0.0)
        return f"{said}; expect {duration(least)} to {duration(most)}, by the sections' seconds in earlier runs"

    def _write(self) -> None:
        kept = {key: value for key, value in vars(self).items() if key != "file"}
        write_text(self.file, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
        self._keep_seconds()

    def _seconds_known(self) -> dict[str, float]:
        known = _read(self.file.with_name(self.file.name.removesuffix(".run.json") + ".seconds.json")) or {}
        return {section: float(known[section]) for section in self.sections if section in known}

    def _keep_seconds(self) -> None:
        """The longest of each section, as once its steps are in the cache it is quick."""
        known = self._seconds_known()
        longest = {section: max(seconds, known.get(section, 0.0)) for section, seconds in self.seconds.items()}
        file = self.file.with_name(self.file.name.removesuffix(".run.json") + ".seconds.json")
        write_text(file, json.dumps({**known, **longest}, indent=1, ensure_ascii=False) + "\n")


def read(file: Path) -> Progress | None:
    """The run that `file` tells of, or None where the last one ended well."""
    if not file.exists():
        return None
    try:
        return Progress(file, **(_read(file) or {}))
    except TypeError:
        return Progress(file)  # damaged, as by a full disk: that it did not end well is known all the same


def duration(seconds: float) -> str:
    """A time as one says it: 41 s, 12 min, 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def some(things: Sequence[Any], what: str) -> str:
    """Their number and what they are: 1 file, 2 files."""
    return f"{len(things)} {what}{'' if len(things) == 1 else 's'}"


def _read(file: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        return content if isinstance(content, Mapping) else None
    return None
