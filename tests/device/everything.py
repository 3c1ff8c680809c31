"""All that can be tried on a pretended GPU: the four notebooks in small, and the cases of the device tests.

    python tests/device/everything.py [NOTEBOOK ...]

Writes `reached.json`: for each function that takes tensors, what called it, and whether with tensors of the GPU. Fails
where a cell fails, or a function was called by nothing.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

from reached import functions, missing, watching  # noqa: E402


def of_cases() -> dict[str, dict[str, bool]]:
    """What each case of the device tests calls."""
    import torch
    from cases import CASES
    from pretend_gpu import pretend_gpu

    wanted = {function.__code__: name for name, function in functions()}
    found = {}
    with pretend_gpu():
        torch.use_deterministic_algorithms(True)
        for name, case in CASES.items():
            with watching(wanted) as found[name]:
                case("cuda")
    return found


def main(names: list[str]) -> int:
    chosen = names or sorted(script.stem for script in (ROOT / "notebooks").glob("[0-9]*.py"))
    failed, found = [], {}
    for name in chosen:
        start = time.monotonic()
        ran = subprocess.run([sys.executable, HERE / "notebook.py", name], cwd=ROOT, capture_output=True, text=True)
        print(
            f"{name}: {'every cell ran' if not ran.returncode else 'failed'} ({time.monotonic() - start:.0f} s)",
            flush=True,
        )
        if ran.returncode:
            failed.append(name)
            print(ran.stderr[-3_000:], file=sys.stderr)
        else:
            found[name] = json.loads((ROOT / "build" / "pretend" / name / "reached.json").read_text(encoding="utf-8"))
    found |= of_cases()
    by: dict[str, tuple[str, bool]] = {}
    for where, calls in found.items():
        for function, on_gpu in calls.items():
            if function not in by or (on_gpu and not by[function][1]):
                by[function] = (where, on_gpu)
    if not names:
        text = json.dumps({function: list(by[function]) for function in sorted(by)}, indent=1)
        (HERE / "reached.json").write_text(text + "\n", encoding="utf-8")
    for function, problem in missing(by).items():
        print(f"{function}: {problem}", file=sys.stderr)
        failed.append(function)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
