"""Packages that not everybody needs: what to install is said where one of them is missing."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Around imports of packages that the extra `name` of pyproject.toml brings.

    Raises ModuleNotFoundError with the command that installs them.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        wanted = f"{error.name} is not installed: pip install 'xaikit[{name}]' brings it."
        raise ModuleNotFoundError(wanted, name=error.name) from None
