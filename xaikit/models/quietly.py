"""Loading models without a progress bar for each file."""

from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """No progress bars of diffusers and transformers inside; those that were shown before are shown again."""
    shown = [library for library in (diffusers_logging, transformers_logging) if library.is_progress_bar_enabled()]
    try:
        for library in shown:
            library.disable_progress_bar()
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()
