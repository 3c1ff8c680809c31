"""What a public name costs before it does anything: seconds and memory of `import xaikit` and of each name alone.

    python -m benchmarks.storage.importing [NAME ...]

Each is imported in a process of its own; memory is the most that the process held.
Nothing but xaikit is imported here: a child's memory is counted from that of its parent on.
"""

import argparse
import subprocess
import sys

import xaikit

CODE = """
import resource, sys, time
start = time.perf_counter()
{statement}
seconds = time.perf_counter() - start
unit = 2**20 if sys.platform == "darwin" else 2**10
print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)
"""
LIMITS = 0.3, 60  # seconds and MB of `import xaikit`


def cost(statement: str, repeats: int = 1) -> tuple[float, float]:
    """The fewest seconds out of some runs, and the MB of the first."""
    runs = []
    for _ in range(repeats):
        code = CODE.format(statement=statement)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        runs.append([float(number) for number in done.stdout.split()])
    return min(seconds for seconds, _ in runs), runs[0][1]


def main() -> None:
    """Print a row for the package and for each name; fail where the package costs more than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=xaikit.__all__, metavar="NAME", help="all of them by default")
    options = parser.parse_args()
    seconds, memory = package = cost("import xaikit", repeats=3)
    print(f"{'import xaikit':50} {seconds:6.2f} s {memory:6.0f} MB")
    for statement in ("import torch", *(f"from xaikit import {name}" for name in options.names)):
        seconds, memory = cost(statement)
        print(f"{statement:50} {seconds:6.2f} s {memory:6.0f} MB", flush=True)
    if package[0] > LIMITS[0] or package[1] > LIMITS[1]:
        sys.exit(f"import xaikit takes more than {LIMITS[0]} s or {LIMITS[1]} MB.")


if __name__ == "__main__":
    main()
