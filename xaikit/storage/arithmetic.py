"""One arithmetic on every Intel CPU with AVX2, so that a run's numbers do not depend on the machine.

What floats add up to depends on the order in which they are added. Libraries choose it by the CPU's instructions and
the number of threads. A forward pass then moves in its last digits; a training, which is chaotic, ends as another
network. So the mini profile is run, and the tests too, with one setting of each library that asks the CPU: torch's own
kernels, oneDNN (convolutions), MKL (matrix products), numpy and its OpenBLAS. It has to be in the environment before
these are loaded: the runner gives it to the kernel that it starts.

The result is the same to the last bit on Intel CPUs with AVX2, whatever their cores and load, as far as one CPU can
pretend to be another (tests/storage/test_arithmetic.py). MKL keeps to MKL_CBWR=AVX2 on Intel's CPUs alone; what is
the same everywhere (COMPATIBLE) takes twice the time. AMD's CPUs therefore have an arithmetic of their own, as have ARM
and GPUs; there the accepted bands serve.
"""

import os
import platform
import sys
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

VARIABLE = "XAIKIT_ARITHMETIC"  # holds the name of the arithmetic of this process
PORTABLE, NATIVE = "portable", "native"
PRECISIONS = "float32", "bfloat16"
THREADS = 2  # of a process, on one core as on many: another number is another order of summation
# Not more threads than cores by themselves; and who waits for another thread sleeps, as spinning takes the core that
# the other one waits for: beside other work ten times slower.
_ANY_CPU = {
    "OMP_DYNAMIC": "FALSE",
    "MKL_DYNAMIC": "FALSE",
    "OMP_WAIT_POLICY": "PASSIVE",
    "OPENBLAS_NUM_THREADS": "1",  # it never starts more than there are cores
}
_NUMPY = {"OPENBLAS_CORETYPE": "Haswell", "NPY_DISABLE_CPU_FEATURES": "X86_V4,AVX512_ICL,AVX512_SPR"}
_CHOICES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR")


def _arithmetic(threads: int, torch: str = "", onednn: str = "", mkl: str = "") -> dict[str, str]:
    """The variables of an arithmetic; what is left empty each library chooses by the CPU."""
    values = dict(zip(_CHOICES, (str(threads), str(threads), torch, onednn, mkl), strict=True))
    return {**_ANY_CPU, **(_NUMPY if torch else {}), **{name: value for name, value in values.items() if value}}


# By name. The others are for bands, which are to cover what machines of all kinds make of a seed (companion.accept).
ARITHMETICS: dict[str, dict[str, str]] = {
    PORTABLE: _arithmetic(THREADS, "avx2", "AVX2", "AVX2,STRICT"),
    "one-thread": _arithmetic(1, "avx2", "AVX2", "AVX2,STRICT"),
    "widest": _arithmetic(2),
    "widest-one-thread": _arithmetic(1),
    "compatible": _arithmetic(2, "avx2", "AVX2", "COMPATIBLE"),
    "compatible-one-thread": _arithmetic(1, "avx2", "", "COMPATIBLE"),
    "plain": _arithmetic(2, "default", "AVX2", "AVX2"),
    "plain-one-thread": _arithmetic(1, "default", "AVX2", "AVX2,STRICT"),
    NATIVE: {},  # what the machine does by itself
}
_FAMILIES = ("OMP_", "GOMP_", "KMP_", "MKL_", "ONEDNN_", "DNNL_", "OPENBLAS_", "ATEN_CPU_", "NPY_", VARIABLE)


def name() -> str:
    """The arithmetic of this process."""
    return os.environ.get(VARIABLE, NATIVE)


def environment(name: str) -> dict[str, str]:
    """This process's environment, with the variables of the arithmetic `name` in place of all that set one.

    Without AVX2 only the threads are fixed, as the other settings ask for it. Raises ValueError for an unknown name.
    """
    if name not in ARITHMETICS:
        raise ValueError(f"unknown arithmetic {name!r}: choose one of {', '.join(ARITHMETICS)}")
    inherited = dict(os.environ)
    if VARIABLE in inherited or name != NATIVE:
        inherited = {key: value for key, value in inherited.items() if not key.startswith(_FAMILIES)}
    chosen = ARITHMETICS[name]
    if "avx2" not in cpu_flags():
        chosen = {key: value for key, value in chosen.items() if key in _ANY_CPU or key.endswith("_NUM_THREADS")}
    return inherited | chosen | ({} if name == NATIVE else {VARIABLE: name})


def training_precision(device: str, precision: str = "float32") -> "torch.autocast":
    """An autocast context for what notebooks train: bfloat16 where that is asked for, on a GPU that has it.

    On a CPU it is float32 always: few multiply bfloat16 by themselves, and numbers must not depend on which one it is.
    Raises ValueError for another precision than float32 and bfloat16.
    """
    import torch

    check_precision(precision)
    kind = torch.device(device).type
    native = kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(kind, torch.bfloat16, enabled=native and precision == "bfloat16")


def check_precision(precision: str) -> None:
    """Raise ValueError unless it is float32 or bfloat16."""
    if precision not in PRECISIONS:
        raise ValueError(f"Unknown precision {precision!r}: choose {' or '.join(map(repr, PRECISIONS))}.")


def without_tf32() -> None:
    """Let a GPU compute float32 as float32: torch allows convolutions the 10 bits of TF32 by default."""
    import torch

    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def float32() -> str:
    """What a GPU makes of float32 in this process: "ieee", or "tf32" where matrix products or convolutions may be."""
    import torch

    exact = torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32
    return "ieee" if exact else "tf32"


# --- what a record says of the machine --------------------------------------------------------------------------


@cache
def cpu_flags() -> frozenset[str]:
    """The instructions that the CPU says it has; none where the system does not tell (all but Linux on x86)."""
    return frozenset(_cpu_info().get("flags", "").split())


def cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, object]:
    """What a record keeps of the machine: CPU, instruction sets, cores, threads, arithmetic, and how fast it is.

    `calibration` has the seconds that a fixed piece of work took with one and with two threads (`calibrate`); it and
    the number of threads are left out where torch was not loaded.
    """
    torch = sys.modules.get("torch")
    vectors = sorted(flag for flag in cpu_flags() if flag.startswith(("avx", "amx", "fma")))
    return {
        "cpu": _cpu_info().get("model name", "") or platform.processor() or platform.machine(),
        "flags": " ".join(vectors),
        "cores": cores(),
        "arithmetic": name(),
        "float32": torch and float32(),
        "threads": torch and torch.get_num_threads(),
        "calibration": torch and {str(threads): round(calibrate(threads), 2) for threads in (1, 2)},
    }


@cache
def calibrate(threads: int) -> float:
    """The seconds that matrix products and small convolutions take here: about one, quiet, on a CPU of 2023."""
    import torch
    import torch.nn.functional as F

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        draw = torch.Generator().manual_seed(0)
        square = torch.randn(768, 768, generator=draw)
        maps, kernels = torch.randn(32, 64, 14, 14, generator=draw), torch.randn(64, 64, 3, 3, generator=draw)
        with torch.inference_mode():
            square @ square, F.conv2d(maps, kernels, padding=1)  # whatever is set up at the first call
            start = time.perf_counter()
            for _ in range(30):
                _ = square @ square
            for _ in range(150):
                _ = F.conv2d(maps, kernels, padding=1)
            return time.perf_counter() - start
    finally:
        torch.set_num_threads(before)


@cache
def _cpu_info() -> Mapping[str, str]:
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").split("\n\n")[0].splitlines() if file.exists() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
