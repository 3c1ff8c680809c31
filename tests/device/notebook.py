"""Run one notebook in this process, on a pretended GPU, with as few pictures and steps as reach every cell.

    python tests/device/notebook.py 04_clip_decomposition [--keep-going] [--real]

Its results go to a folder of their own under build/, and are compared with nothing. With --keep-going a cell that
fails is reported and the next one is tried; --real leaves the device to the machine.
"""

import argparse
import contextlib
import json
import linecache
import os
import sys
import time
import tomllib
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def settings(name: str) -> dict[str, Any]:
    """What differs from the mini profile."""
    return tomllib.loads((HERE / "tiny.toml").read_text(encoding="utf-8")).get(name, {})


def merged(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A table of settings with changes, table by table; a change of what is not there is a mistake."""
    unknown = changes.keys() - table.keys()
    if unknown:
        raise ValueError(f"tiny.toml changes {', '.join(sorted(unknown))}, which the mini profile does not have.")
    deep = {key: merged(table[key], value) for key, value in changes.items() if isinstance(value, Mapping)}
    return {**table, **changes, **deep}


def few_digits(count: int) -> None:
    """Let no split of the digits have more than so many, as no setting of a profile says how many."""
    from xaikit.studies import caption_driven

    read = caption_driven.load_splits

    def first(*args: Any) -> Any:
        splits = read(*args)
        return replace(splits, **{name: each.select(slice(None, None, max(1, len(each) // count))) for name, each in vars(splits).items()})

    caption_driven.load_splits = first


def run(name: str, out: Path, *, keep_going: bool = False) -> list[str]:
    """Execute the code cells of a notebook in order; returns what failed, a line each."""
    import jupytext
    import matplotlib.pyplot as plt

    from xaikit.companion import profiles
    from xaikit.storage import paths

    os.environ["XAIKIT_OUT"] = str(out)
    out.mkdir(parents=True, exist_ok=True)
    paths.CACHE = out / "cache"
    load = profiles.load

    def load_tiny(profile: str, section: str, seed: int) -> profiles.Settings:
        table = load(profile, section, seed).as_dict()
        return profiles.Settings(merged(table, settings(section)), f"the tiny profile, section {section!r}")

    profiles.load = load_tiny
    few_digits(100)
    plt.show = lambda *args, **kwargs: plt.close("all")
    names: dict[str, Any] = {"__name__": "__main__"}
    failed, seconds, heading, start = [], {}, "the start", time.monotonic()
    cells = jupytext.read(ROOT / "notebooks" / f"{name}.py").cells
    for number, cell in enumerate(cells):
        if cell.cell_type != "code":
            lines = [line for line in cell.source.splitlines() if line.startswith("#")]
            if lines:
                heading = lines[-1].lstrip("# ")
                print(f"{time.monotonic() - start:6.0f} s  {heading}", flush=True)
            continue
        file = f"<{name}, cell {number}>"
        linecache.cache[file] = (len(cell.source), None, cell.source.splitlines(keepends=True), file)
        began = time.monotonic()
        try:
            exec(compile(cell.source, file, "exec"), names)
        except Exception as error:
            frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith((str(ROOT / "xaikit"), "<"))]
            place = frames[-1]
            where = place.filename.replace(f"{ROOT}/", "")
            failed.append(f"{heading}: {type(error).__name__}: {error} ({where}, line {place.lineno}: {place.line})")
            print("  FAILS", failed[-1], flush=True)
            if not keep_going:
                raise
        seconds[heading] = seconds.get(heading, 0.0) + time.monotonic() - began
    (out / "seconds.json").write_text(json.dumps({key: round(value, 1) for key, value in seconds.items()}, indent=1))
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="such as 04_clip_decomposition")
    parser.add_argument("--keep-going", action="store_true", help="try the cells after one that fails")
    parser.add_argument("--real", action="store_true", help="no pretence: a GPU where there is one")
    options = parser.parse_args()
    os.environ.setdefault("MPLBACKEND", "Agg")
    sys.path[:0] = [str(ROOT), str(HERE)]
    import torch

    torch.set_num_threads(1)
    if options.real:
        device = contextlib.nullcontext()
    else:
        from pretend_gpu import pretend_gpu

        device = pretend_gpu()
    with device:
        failed = run(options.name, ROOT / "build" / "pretend" / options.name, keep_going=options.keep_going)
    print("\n".join(failed) if failed else f"{options.name}: every cell ran")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
