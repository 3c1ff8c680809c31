"""The portable arithmetic gives the same bits on other CPUs and other numbers of cores, whatever the user has set."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from xaikit.storage import arithmetic
from xaikit.storage.arithmetic import ARITHMETICS, NATIVE, PORTABLE, VARIABLE, environment

HERE = Path(__file__).parent
on_linux = pytest.mark.skipif(
    platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists() or "avx2" not in arithmetic.cpu_flags(),
    reason="the portable arithmetic is for x86-64 CPUs with AVX2, and Linux tells which they are",
)
Digest = Callable[..., dict[str, str]]


@pytest.fixture(scope="module")
def digest(tmp_path_factory: pytest.TempPathFactory) -> Digest:
    """Runs the script under an arithmetic, on a CPU that may be pretended and on some of the cores."""
    library = tmp_path_factory.mktemp("pretend") / "pretend_cpu.so"
    known: dict[tuple, dict[str, str]] = {}

    def run(name: str, cpu: str | None = None, cores: int | None = None, **variables: str) -> dict[str, str]:
        key = (name, cpu, cores, *sorted(variables.items()))
        if key not in known:
            if cpu and not library.exists():
                pretend(library)
            with pytest.MonkeyPatch.context() as patch:
                for variable, value in variables.items():
                    patch.setenv(variable, value)
                given = environment(name)
            given["PYTHONPATH"] = os.pathsep.join(sys.path)
            if cpu:
                given |= {"PRETEND_CPU": cpu, "LD_PRELOAD": str(library)}
            bound = None if cores is None else lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
            command = [sys.executable, str(HERE / "digest_of_arithmetic.py")]
            done = subprocess.run(command, env=given, capture_output=True, text=True, preexec_fn=bound, timeout=300)
            assert done.returncode == 0, done.stderr
            known[key] = json.loads(done.stdout)
        return known[key]

    return run


def pretend(library: Path) -> None:
    if "cpuid_fault" not in arithmetic.cpu_flags():
        pytest.skip("this system cannot pretend to be another CPU: it has no CPUID faulting")
    if (compiler := shutil.which("gcc") or shutil.which("cc")) is None:
        pytest.skip("a CPU is pretended by a library in C: there is no compiler")
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(HERE / "pretend_cpu.c"), "-ldl"]
    subprocess.run(command, check=True, timeout=60)


@on_linux
@pytest.mark.parametrize("cpu", ["here", "haswell"])
def test_other_intel_cpus_give_the_same_bits(digest: Digest, cpu: str) -> None:
    assert digest(PORTABLE, cpu) == digest(PORTABLE)
    if "avx512f" in arithmetic.cpu_flags():  # so the digest is of something that depends on the CPU
        there, own = digest("widest", cpu), digest("widest")
        assert (there["capability"], own["capability"]) == ("AVX2", "AVX512")
        assert all(there[part] != own[part] for part in ("numpy", "torch", "training"))
        assert there["world"] == own["world"]


@on_linux
def test_what_is_the_same_on_amd_as_well(digest: Digest) -> None:
    """MKL keeps to the portable setting on Intel's CPUs alone: what needs it differs, and the slow setting does not."""
    there, own = digest(PORTABLE, "zen3"), digest(PORTABLE)
    assert (there["numpy"], there["world"]) == (own["numpy"], own["world"])
    assert there["torch"] != own["torch"], "MKL does now: say so where it says that AMD differs"
    assert digest("compatible", "zen3") == digest("compatible")


@on_linux
def test_cores_and_what_the_user_has_set_change_nothing(digest: Digest) -> None:
    own = digest(PORTABLE)
    assert digest(PORTABLE, cores=1) == own
    assert digest(PORTABLE, OMP_NUM_THREADS="8", ATEN_CPU_CAPABILITY="default", MKL_CBWR="COMPATIBLE") == own
    assert digest(PORTABLE, **{VARIABLE: "plain", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "ACTIVE"}) == own
    assert digest("one-thread")["training"] != own["training"]  # a number of threads is part of an arithmetic


@on_linux
def test_the_tests_run_in_it() -> None:
    if arithmetic.name() != PORTABLE:
        pytest.skip(f"{VARIABLE} names another one for this run of the tests")
    from numpy._core._multiarray_umath import __cpu_features__ as features

    assert torch.get_num_threads() == arithmetic.THREADS and torch.backends.cpu.get_cpu_capability() == "AVX2"
    assert not features["X86_V4"], f"numpy {np.__version__} was loaded before the setting"


def test_an_arithmetic_replaces_what_another_one_or_the_user_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "cpu_flags", lambda: frozenset({"avx2"}))
    for name in {*environment(PORTABLE)} - {*environment(NATIVE)}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert environment(NATIVE) == dict(os.environ)  # the user's own
    portable = environment(PORTABLE)
    assert portable.items() >= ARITHMETICS[PORTABLE].items() and portable[VARIABLE] == PORTABLE
    for name, value in portable.items():
        monkeypatch.setenv(name, value)
    widest = environment("widest")
    assert "MKL_CBWR" not in widest and widest["OMP_NUM_THREADS"] == "2" and widest[VARIABLE] == "widest"
    assert not environment(NATIVE).keys() & {VARIABLE, "MKL_CBWR", "OMP_NUM_THREADS"}
    with pytest.raises(ValueError, match="unknown arithmetic 'fast': choose one of portable, one-thread"):
        environment("fast")


def test_without_avx2_only_the_threads_are_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "cpu_flags", lambda: frozenset())
    given = environment(PORTABLE)
    assert given["OMP_NUM_THREADS"] == str(arithmetic.THREADS)
    assert not given.keys() & {"ATEN_CPU_CAPABILITY", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA", "NPY_DISABLE_CPU_FEATURES"}


def test_the_machine_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    found = arithmetic.machine()
    assert torch.get_num_threads() == threads == found["threads"]
    assert found["arithmetic"] == arithmetic.name() and found["cores"] >= 1 and found["cpu"]
    assert found["calibration"].keys() == {"1", "2"} and min(found["calibration"].values()) > 0
    json.dumps(found)
    monkeypatch.delitem(sys.modules, "torch")  # as in a notebook that never loaded it
    assert arithmetic.machine()["calibration"] is None


def test_notebooks_train_in_float32_on_every_cpu() -> None:
    with arithmetic.training_precision("cpu", "bfloat16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_trains_in_bfloat16_where_that_is_asked_for_and_it_has_that(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native)
    with FakeTensorMode(allow_non_fake_inputs=True), arithmetic.training_precision("cuda:0", "bfloat16"):
        square = torch.ones(2, 2, device="cuda")
        assert (square @ square).dtype == (torch.bfloat16 if native else torch.float32)
        with arithmetic.training_precision("cuda:0"):
            assert (square @ square).dtype == torch.float32
    with pytest.raises(ValueError, match="Unknown precision 'float16'"):
        arithmetic.training_precision("cuda:0", "float16")


def test_float32_is_float32_when_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert arithmetic.float32() == "tf32"  # as torch has it by default, for convolutions
    arithmetic.without_tf32()
    assert arithmetic.float32() == "ieee" and not torch.backends.cuda.matmul.allow_tf32


@on_linux
def test_importing_portable_leaves_nothing_that_the_user_has_set() -> None:
    code = (
        "import os, xaikit.storage.portable; print(*sorted(k for k in os.environ if k[:4] in ('GOMP', 'MKL_', 'DNNL')))"
    )
    variables = {**environment(NATIVE), "GOMP_SPINCOUNT": "9", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "DNNL_VERBOSE": "0"}
    ran = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    assert ran.stdout == "MKL_CBWR MKL_DYNAMIC MKL_NUM_THREADS\n"
