"""Files appear whole or not at all."""

import errno
import json
import os
import secrets
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from filelock import FileLock

# What a file system says that has no locks, or lets nobody write.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EROFS, errno.EACCES, errno.EPERM}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` to write to; it becomes `path` only if the block ends well.

    It is then readable as the umask has it, whatever wrote it: safetensors alone makes files for their owner only.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # No other process has this name, on another machine that shares the folder either.
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        part.touch()
        mode = part.stat().st_mode
        yield part
        if part.stat().st_mode != mode:
            part.chmod(mode)
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


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the lock beside `path` while others wait for it; whether there is one.

    Where the file system has no locks or is read-only there is none. What is written whole or not at all is then still
    right: two processes may do the same work twice.
    """
    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        yield False
        return
    except NotImplementedError:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
