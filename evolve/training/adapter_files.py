"""The two files of an adapter: put in place at once, and naming no path of the machine it was trained on."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from memory.ledger import publish_json, read_json, sync_directory

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"


def publish_adapter(target: Path, base_name: str, write: Callable[[Path], None]) -> str:
    """Let `write` fill a new directory with an adapter, then rename it to `target`; an older one there is replaced.

    Only the weights and the configuration are kept; the configuration gets `base_name` and sorted keys.
    Returns the sha256 (hex) of the weights file. Raises OSError, and FileNotFoundError when `write` left a file out.
    """
    staged = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        write(staged)
        for entry in staged.iterdir():
            if entry.name not in (WEIGHTS_FILE, CONFIG_FILE):
                entry.unlink()
        config = read_json(staged / CONFIG_FILE)
        config["base_model_name_or_path"] = base_name
        config["target_modules"] = sorted(config["target_modules"])
        publish_json(staged / CONFIG_FILE, dict(sorted(config.items())))
        digest = _sync_and_hash(staged / WEIGHTS_FILE)
        if target.exists():
            shutil.rmtree(target)
        staged.rename(target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    sync_directory(target.parent)
    return digest


def _sync_and_hash(file: Path) -> str:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
        return hashlib.file_digest(handle, "sha256").hexdigest()
