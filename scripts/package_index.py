"""Hands pip's own idea of where packages come from on to uv, which does not read pip's configuration."""

from __future__ import annotations

import os
import shlex
import subprocess
import urllib.error
import urllib.request
from collections.abc import Collection
from pathlib import Path

TORCH_INDEX = "https://download.pytorch.org/whl/cpu"

_UV_FLAGS = {"index-url": "--default-index", "extra-index-url": "--index", "find-links": "--find-links"}


def pip_settings(python: Path) -> dict[str, str]:
    """pip's settings by bare name ("find-links"); the environment wins over files, as it does in pip."""
    listing = subprocess.run(
        [str(python), "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout
    settings: dict[str, str] = {}
    from_environment: dict[str, str] = {}
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        target = from_environment if section == ":env:" else settings
        target[name] = value.strip("'\"").replace("\\n", " ")
    return settings | from_environment


def uv_index_options(settings: dict[str, str], names: Collection[str] = tuple(_UV_FLAGS)) -> list[str]:
    """uv's flags for the indexes and folders that pip would use, or for those of its settings in `names`.

    Candidates from all of them are compared: every file is checked against a locked hash, so it does not
    matter who serves it, and a partial mirror must not hide the version that the lock asks for.
    """
    options: list[str] = []
    for name in names:
        flag = _UV_FLAGS[name]
        for place in shlex.split(settings.get(name, "")):
            if "://" in place or Path(place).is_dir():
                options += [flag, place]
    return [*options, "--index-strategy", "unsafe-best-match"] if options else []


def uv_environment(settings: dict[str, str]) -> dict[str, str]:
    """The environment for uv: pip's certificate file becomes the one uv trusts, unless one is set."""
    environment = dict(os.environ)
    if "cert" in settings:
        environment.setdefault("SSL_CERT_FILE", settings["cert"])
    return environment


def torch_index_reachable(timeout_s: float = 5.0) -> bool:
    """Whether PyTorch's own index answers; uv gives up on an index that does not, where pip goes on."""
    try:
        with urllib.request.urlopen(f"{TORCH_INDEX}/torch/", timeout=timeout_s):
            return True
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False
