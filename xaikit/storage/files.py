"""Files appear whole or not at all."""

import json
import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` to write to; it becomes `path` only if the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """What a file of JSON holds. Raises ValueError, naming the file, where it is damaged: no JSON, or not finite."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"a number is {constant}")

    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): make it anew, or restore it from the repository") from None


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a file of TOML. Raises ValueError, naming the file, where it is damaged."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no TOML ({error}): mend it, or restore it from the repository") from None


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8 with LF endings, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")
