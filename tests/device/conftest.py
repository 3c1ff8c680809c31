"""Lets the tests of this folder import what lies beside them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _no_device_stays() -> Iterator[None]:
    """accelerate keeps the device that it first saw for the whole process, be it that of another folder's tests."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
