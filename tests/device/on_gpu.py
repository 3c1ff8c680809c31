"""What a real GPU makes of it, in one command: the device tests, then every notebook, with seconds and memory.

    python tests/device/on_gpu.py [--minutes 12]

Runs the tests of this folder, and each notebook under `mini` (and `rehearsal`, where there is that profile), as far as
the time allows. Prints a table beside the seconds that the committed run took on a CPU, and leaves it, with what
failed, in build/gpu/report.md.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PROFILES = "mini", "rehearsal"


def committed_seconds(profile: str, name: str) -> float | None:
    """What the committed run of a notebook took, or None where none is committed, or it ran on a GPU itself."""
    file = ROOT / "figures" / profile / name / "numbers.json"
    if not file.exists():
        return None
    record = json.loads(file.read_text(encoding="utf-8"))
    return record["seconds"] if record["device"] == "cpu" else None


def table(name: str, sections: Mapping[str, Sequence[float]], cpu: float | None) -> list[str]:
    """The rows of one notebook: its sections, then the whole beside the CPU's."""
    rows = [f"| {name} | {section} | {seconds:.1f} | {most:,.0f} | |" for section, (seconds, most) in sections.items()]
    whole = sum(seconds for seconds, _ in sections.values())
    most = max((most for _, most in sections.values()), default=0)
    return [*rows, f"| {name} | **all** | {whole:.1f} | {most:,.0f} | {'–' if cpu is None else f'{cpu:.1f}'} |"]


def attempt(command: Sequence[str], seconds: float) -> tuple[str, str]:
    """Run a command for at most so long: "passed", "failed" or "not finished", and the last lines that it printed."""
    try:
        ran = subprocess.run(command, cwd=ROOT, timeout=max(seconds, 1), capture_output=True, text=True)
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
        return "not finished", output.decode(errors="replace")[-2_000:]
    return "passed" if ran.returncode == 0 else "failed", (ran.stdout + ran.stderr)[-4_000:]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=12, help="for all together (default: %(default)s)")
    options = parser.parse_args(arguments)
    end = time.monotonic() + 60 * options.minutes

    import torch

    if not torch.cuda.is_available():
        print("There is no GPU here: `make pretend-gpu` does what can be done without one.", file=sys.stderr)
        return 1
    name = torch.cuda.get_device_name()
    lines = [f"# {name}, torch {torch.__version__}", ""]
    status, said = attempt([sys.executable, "-m", "pytest", "-q", str(HERE)], end - time.monotonic())
    lines += [f"Device tests: {status}.", "", "```", said.strip(), "```", ""] if status != "passed" else [
        f"Device tests: {said.strip().splitlines()[-1]}", ""
    ]  # fmt: skip
    print(lines[2], flush=True)
    lines += ["| notebook | section | seconds | peak MiB | CPU seconds |", "|---|---|---|---|---|"]
    problems = [] if status == "passed" else ["the device tests"]
    notes: list[str] = []
    for profile in PROFILES:
        if not (ROOT / "xaikit" / "companion" / "profiles" / f"{profile}.toml").exists():
            continue
        for script in sorted((ROOT / "notebooks").glob("[0-9]*.py")):
            command = [sys.executable, str(HERE / "notebook.py"), script.stem, "--real", "--profile", profile]
            status, said = attempt(command, end - time.monotonic())
            label = f"{script.stem} ({profile})"
            print(f"{label}: {status}", flush=True)
            if status == "passed":
                out = ROOT / "build" / "gpu" / profile / script.stem
                sections = json.loads((out / "seconds.json").read_text(encoding="utf-8"))
                lines += table(label, sections, committed_seconds(profile, script.stem))
            else:
                problems.append(label)
                notes += ["", f"{label}: {status}", "", "```", said.strip(), "```"]
    text = "\n".join([*lines, *notes]) + "\n"
    report = ROOT / "build" / "gpu" / "report.md"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(text, encoding="utf-8")
    print(text)
    if problems:
        print(f"failed or not finished: {', '.join(problems)}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
