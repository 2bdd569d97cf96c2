"""`make setup`: a virtual environment from the locks, then the two model families; run again, it has nothing to do.

Uses the standard library alone: it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path

from package_index import TORCH_INDEX, pip_settings, torch_index_reachable, uv_environment, uv_index_options

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "evomesh-setup"
CLIENTS_STAMP = VENV / "evomesh-clients"
REQUIREMENTS = ROOT / "requirements"


def say(text: str) -> None:
    """One line of progress."""
    print(f"setup: {text}", flush=True)


def run(*command: str | Path, env: dict[str, str] | None = None) -> None:
    """Run a command in the repository and stop with its exit status if it fails."""
    result = subprocess.run([str(part) for part in command], cwd=ROOT, env=env)
    if result.returncode != 0:
        shown = " ".join(str(part) for part in command[:6])
        raise SystemExit(f"setup: failed with exit status {result.returncode}: {shown} ...; its own words are above")


def check_system() -> None:
    """Stop before the download when the machine lacks what no Python package can bring."""
    missing: list[str] = []
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        missing.append(
            f"Linux on x86_64: the locked packages are for it, this is {platform.system()} {platform.machine()}"
        )
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        missing.append("libnuma.so.1, which vLLM's CPU build loads: apt-get install libnuma1 (Fedora: numactl-libs)")
    if not any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang")):
        missing.append("a C compiler, which one dependency and PyTorch's compiler need: apt-get install gcc libc6-dev")
    if missing:
        raise SystemExit("setup: this machine lacks\n" + "\n".join(f"  - {item}" for item in missing))


def fingerprint(lock: Path) -> str:
    """The set's name, and the hash of all that decides what is installed."""
    digest = hashlib.sha256()
    for path in (REQUIREMENTS / "bootstrap.lock", lock, ROOT / "pyproject.toml"):
        digest.update(path.read_bytes())
    digest.update(str(VENV).encode())  # a moved environment has wrong paths in its scripts
    return f"{lock.stem} {digest.hexdigest()}"


def split_torch(lock: Path) -> tuple[str, str]:
    """The lock's entry for torch, and the rest of it."""
    blocks = re.split(r"\n(?=[A-Za-z0-9])", lock.read_text("utf-8"))
    torch = [block for block in blocks if block.startswith("torch==")]
    if len(torch) != 1:
        raise SystemExit(f"setup: expected one torch==... entry in {lock}, found {len(torch)}; run `make lock`")
    return torch[0] + "\n", "\n".join(block for block in blocks if not block.startswith("torch=="))


def create_environment(lock: Path) -> None:
    """Make .venv, or make it anew where it is for another Python or holds the other set (both import as `vllm`)."""
    config = VENV / "pyvenv.cfg"
    installed = STAMP.read_text("utf-8").split()[0] if STAMP.exists() else lock.stem
    wrong = config.exists() and (not re.search(r"^version\S* = 3\.11\b", config.read_text("utf-8"), re.MULTILINE))
    if PYTHON.exists() and not wrong and installed == lock.stem:
        return
    say(f"creating {VENV} with Python {platform.python_version()}")
    venv.create(VENV, with_pip=True, clear=VENV.exists())


def install(lock: Path) -> None:
    """Install the locked packages and this one; every file is checked against its hash.

    torch goes by pip, because its CPU build is on an index of its own that may be out of reach, and pip then
    goes on to wherever its configuration finds the wheel. The rest goes by uv, ten times as fast.
    """
    pip: list[str | Path] = [PYTHON, "-m", "pip", "install", "--no-deps", *quiet_pip()]
    say("installing the installers: seconds")
    run(*pip, "--require-hashes", "-r", REQUIREMENTS / "bootstrap.lock")
    torch, rest = split_torch(lock)
    torch_lock, rest_lock = VENV / "torch.lock", VENV / "rest.lock"
    torch_lock.write_text(torch, "utf-8")
    rest_lock.write_text(rest, "utf-8")
    say("installing torch: a minute or two, more on a slow line")
    install_torch([*pip, "--require-hashes", "-r", torch_lock], on_own_index="+cpu" in torch)
    say(f"installing {rest.count('==')} packages of {lock.name} and compiling them: one to ten minutes, by your line")
    install_rest(rest_lock)
    say("installing evomesh itself: seconds")
    run(*pip, "--no-build-isolation", "--editable", ROOT)


def quiet_pip() -> list[str]:
    """pip draws its bars in a terminal; in a log it tells errors alone, not every attempt and every odd setting."""
    return ["--disable-pip-version-check", *([] if sys.stdout.isatty() else ["--quiet", "--quiet"])]


def install_torch(
    command: list[str | Path], *, on_own_index: bool, answers: Callable[[], bool] = torch_index_reachable
) -> None:
    """Run pip's `command` for torch, with PyTorch's own index where its CPU build is wanted and that index answers.

    pip tries an index that does not answer five times, with a warning each, before it looks elsewhere. So it looks
    elsewhere first then; that index is still asked at last, for pip may know a way to it (a proxy) that we do not.
    """
    if on_own_index and not answers():
        say("PyTorch's own index does not answer; taking torch from wherever pip is configured to look")
        if subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True).returncode == 0:
            return
        say("it is not there; asking PyTorch's index all the same, which takes a minute if it stays silent")
    run(*command, *(["--extra-index-url", TORCH_INDEX] if on_own_index else []))


def install_rest(lock: Path) -> None:
    """Install the packages of a lock that are on the main index."""
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    settings = pip_settings(PYTHON)
    # Without build isolation the packages that ship as source are built by the setuptools pinned in the bootstrap.
    uv = [VENV / "bin" / "uv", "pip", "install", *quiet, "--no-deps", "--no-build-isolation", "--python", PYTHON]
    # An engine imports vLLM in three processes. Where Python may not write bytecode, each would compile it every time.
    uv.append("--compile-bytecode")
    command = [str(part) for part in (*uv, *uv_index_options(settings), "--require-hashes", "-r", lock)]
    if subprocess.run(command, cwd=ROOT, env=uv_environment(settings)).returncode != 0:
        say("uv could not install them; trying pip, which takes minutes")
        pip = [PYTHON, "-m", "pip", "install", "--no-deps", *quiet_pip(), "--no-build-isolation", "--require-hashes"]
        run(*pip, "-r", lock)


def install_clients() -> None:
    """Install what the tests use and evomesh does not, on top of the CPU set."""
    lock = REQUIREMENTS / "clients.lock"
    wanted = hashlib.sha256(lock.read_bytes() + STAMP.read_bytes()).hexdigest()
    if CLIENTS_STAMP.exists() and CLIENTS_STAMP.read_text("utf-8") == wanted:
        return
    CLIENTS_STAMP.unlink(missing_ok=True)
    say(f"installing {lock.read_text('utf-8').count('==')} packages of {lock.name}, for the tests alone")
    install_rest(lock)
    CLIENTS_STAMP.write_text(wanted, "utf-8")


def main() -> None:
    """Bring the environment and the model store up to date."""
    parser = argparse.ArgumentParser(prog="make setup", description=__doc__)
    parser.add_argument(
        "--set", choices=("cpu", "gpu"), default="cpu", help="which locked set; they exclude each other"
    )
    parser.add_argument("--clients", action="store_true", help="also what only the tests use (CPU set)")
    parser.add_argument("--no-models", action="store_true", help="leave the model store alone")
    options = parser.parse_args()
    lock = REQUIREMENTS / f"{options.set}.lock"
    wanted = fingerprint(lock)
    started = time.monotonic()
    if not (STAMP.exists() and STAMP.read_text("utf-8") == wanted):
        check_system()
        create_environment(lock)
        STAMP.unlink(missing_ok=True)
        install(lock)
        STAMP.write_text(wanted, "utf-8")
        say(f"packages installed in {time.monotonic() - started:.0f} s")
    if options.clients:
        install_clients()
    if not options.no_models:
        say("preparing the two model families, where they are not there yet: some three minutes on 2 cores")
        bars = {} if sys.stderr.isatty() else {"TQDM_DISABLE": "1"}  # a bar in a log is a page of noise
        run(PYTHON, "-m", "serving.models", "prepare", "--store", "models", env={**os.environ, **bars})
    say(f"ready ({time.monotonic() - started:.0f} s)")


if __name__ == "__main__":
    main()
