"""Run one notebook in this process, cell by cell: on a pretended GPU in small, or as it is on a real one.

    python tests/device/notebook.py 04_clip_decomposition [--keep-going]
    python tests/device/notebook.py 04_clip_decomposition --real [--profile mini]

Pretended, it has as few pictures and steps as reach every cell (the profile `smoke`). The results go to build/pretend/
or build/gpu/ and are compared with nothing. `seconds.json` there has the seconds of each section, and the MiB of a
GPU's memory that it took at most; `reached.json` the functions of the package that were called on a pretended GPU, and
whether with tensors of it. With --keep-going a cell that fails is reported and the next one is tried.
"""

import argparse
import json
import linecache
import os
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def make_tiny() -> None:
    """Give the notebooks the settings of the profile `smoke` where they ask for those of mini."""
    from xaikit.companion import profiles

    load = profiles.load
    profiles.load = lambda profile, section, seed: load("smoke", section, seed)


def run(name: str, out: Path, *, profile: str = "mini", keep_going: bool = False) -> list[str]:
    """Execute a notebook's code cells in order; returns what failed, a line each, or raises it: see `keep_going`."""
    import jupytext
    import matplotlib.pyplot as plt
    import torch

    from xaikit.storage import paths, sources

    shutil.rmtree(out, ignore_errors=True)  # with what it had in its cache, or the seconds would mean nothing
    out.mkdir(parents=True)
    os.environ["XAIKIT_OUT"] = str(out)
    paths.CACHE = out / "cache"
    plt.show = lambda *args, **kwargs: plt.close("all")
    names: dict[str, Any] = {"__name__": "__main__"}
    failed: list[str] = []
    sections: dict[str, list[float]] = {}
    heading, start = "the start", time.monotonic()
    for number, cell in enumerate(jupytext.read(ROOT / "notebooks" / f"{name}.py").cells):
        if sources.of_exercise(sources.counted(cell)):
            continue
        if cell.cell_type != "code":
            if lines := [line for line in cell.source.splitlines() if line.startswith("#")]:
                heading = lines[-1].lstrip("# ")
                print(f"{time.monotonic() - start:6.0f} s  {heading}", flush=True)
            continue
        file = f"<{name}, cell {number}>"
        linecache.cache[file] = (len(cell.source), None, cell.source.splitlines(keepends=True), file)
        began = time.monotonic()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        try:
            exec(compile(cell.source, file, "exec"), names)
        except Exception as error:
            ours = [
                f
                for f in traceback.extract_tb(error.__traceback__)
                if f.filename.startswith((str(ROOT / "xaikit"), "<"))
            ]
            place = f"{ours[-1].filename.replace(f'{ROOT}/', '')}, line {ours[-1].lineno}: {ours[-1].line}"
            failed.append(f"{heading}: {type(error).__name__}: {error} ({place})")
            print("  FAILS", failed[-1], flush=True)
            if not keep_going:
                raise
        if "parameters" in cell.metadata.get("tags", []):
            names["profile"] = profile
        seconds, most = sections.get(heading, (0.0, 0.0))
        sections[heading] = [
            round(seconds + time.monotonic() - began, 1),
            max(most, round(torch.cuda.max_memory_allocated() / 2**20) if torch.cuda.is_available() else 0),
        ]
    (out / "seconds.json").write_text(json.dumps(sections, indent=1) + "\n", encoding="utf-8")
    return failed


def on_stand_ins(profile: str) -> None:
    """Where the profile rehearses: lead the libraries, which are not loaded yet, to the stand-ins."""
    from xaikit.companion import profiles, rehearsal

    if profiles.rehearses(profile):
        os.environ |= rehearsal.environment(ROOT / "build" / profile)
        rehearsal.cut_models(str(Path(os.environ["XAIKIT_DATA"]).parent / rehearsal.MODEL_CONFIGS))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="such as 04_clip_decomposition")
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--keep-going", action="store_true", help="try the cells after one that fails")
    parser.add_argument("--real", action="store_true", help="on the GPU that there is, with the profile as it is")
    options = parser.parse_args()
    os.environ.setdefault("MPLBACKEND", "Agg")
    sys.path[:0] = [str(ROOT), str(HERE)]
    on_stand_ins(options.profile)
    if options.real:
        out = ROOT / "build" / "gpu" / options.profile / options.name
        failed = run(options.name, out, profile=options.profile, keep_going=options.keep_going)
    else:
        from pretend_gpu import pretend_gpu
        from reached import functions, watching

        make_tiny()
        out = ROOT / "build" / "pretend" / options.name
        wanted = {function.__code__: name for name, function in functions()}
        with pretend_gpu(), watching(wanted) as found:
            failed = run(options.name, out, keep_going=options.keep_going)
        (out / "reached.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print("\n".join(failed) or f"{options.name}: every cell ran")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
