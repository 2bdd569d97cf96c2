"""Where a training was at some step: adapter, optimizer and schedule in safe files, whole or not at all.

The trainer's own checkpoints hold pickles, and the highest number wins even when its directory is half written. Here
a checkpoint is published by rename, says which job it belongs to, and is hashed; a damaged one is not used.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file

from memory.ledger import publish_json, read_record, sync_directory
from memory.types import Record
from serving.weights import sha256_of

STATE_FILE = "state.safetensors"
TRAINER_FILE = "trainer_state.json"
META_FILE = "checkpoint.json"
_WEIGHT, _OPTIMIZER, _RANDOM = "weight/", "optimizer/", "random"


class Checkpoint(Record):
    """What a checkpoint says about itself."""

    job: str = Field(description="digest of the job")
    stage: str = Field(description="'rows' or 'pairs'")
    step: int
    sha256: dict[str, str] = Field(description="file to hash")
    schedule: dict[str, Any] = Field(description="state of the learning-rate schedule")
    rates: tuple[float, ...] = Field(description="learning rate of each group of parameters")
    counts: dict[str, int] = Field(default_factory=dict)
    losses: tuple[float, ...] = ()
    seconds: float = Field(default=0.0, description="wall seconds of the steps so far, all attempts")


class CheckpointDamaged(ValueError):
    """A checkpoint whose files are not those that were written."""


def directory_of(out_dir: Path, stage: str, step: int) -> Path:
    """Where a checkpoint of a job lies."""
    return out_dir / f"checkpoint-{stage}-{step:06d}"


def write_checkpoint(
    out_dir: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    trainer_state: str,
    meta: Checkpoint,
) -> None:
    """Publish a checkpoint, then remove the older ones of the stage. `meta.sha256` is filled in. Raises OSError."""
    target = directory_of(out_dir, meta.stage, meta.step)
    staged = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        save_file(_tensors(model, optimizer), staged / STATE_FILE)
        (staged / TRAINER_FILE).write_text(trainer_state, encoding="utf-8")
        hashes = {name: sha256_of(staged / name) for name in (STATE_FILE, TRAINER_FILE)}
        publish_json(staged / META_FILE, meta.model_copy(update={"sha256": hashes}))
        if target.exists():
            shutil.rmtree(target)
        staged.rename(target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    sync_directory(out_dir)
    for older in out_dir.glob(f"checkpoint-{meta.stage}-*"):
        if older != target:
            shutil.rmtree(older)


def latest_checkpoint(out_dir: Path, stage: str, job: str) -> tuple[Path | None, tuple[str, ...]]:
    """The newest usable checkpoint of this very job; and a note for each one that was there and is not used."""
    notes = []
    for directory in sorted(out_dir.glob(f"checkpoint-{stage}-*"), reverse=True):
        try:
            meta = read_meta(directory)
        except (OSError, ValueError) as error:
            notes.append(f"{directory.name} is damaged and was not used: {str(error).splitlines()[0][:200]}")
            continue
        if meta.job == job:
            return directory, tuple(notes)
        notes.append(f"{directory.name} belongs to another job and was not used")
    return None, tuple(notes)


def read_meta(directory: Path) -> Checkpoint:
    """What a checkpoint says about itself, its files verified. Raises CheckpointDamaged, ValueError, OSError."""
    meta = read_record(directory / META_FILE, Checkpoint)
    for name in (STATE_FILE, TRAINER_FILE):
        found = sha256_of(directory / name)
        if meta.sha256.get(name) != found:
            raise CheckpointDamaged(f"{name}: expected sha256 {meta.sha256.get(name)}, found {found}")
    return meta


def load_weights(directory: Path, model: torch.nn.Module) -> None:
    """Put the checkpoint's trained weights into the model. Raises KeyError where they are another model's."""
    tensors = load_file(directory / STATE_FILE)
    with torch.no_grad():
        for name, weight in _trained(model).items():
            weight.copy_(tensors[_WEIGHT + name])


def load_optimizer(directory: Path, optimizer: torch.optim.Optimizer, rates: tuple[float, ...]) -> None:
    """Put the checkpoint's moments and rates into the optimizer."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in load_file(directory / STATE_FILE).items():
        if name.startswith(_OPTIMIZER):
            index, key = name.removeprefix(_OPTIMIZER).split("/")
            state.setdefault(int(index), {})[key] = value
    current = optimizer.state_dict()
    for group, rate in zip(current["param_groups"], rates, strict=True):
        group["lr"] = rate
    optimizer.load_state_dict({"state": state, "param_groups": current["param_groups"]})


def load_random(directory: Path) -> None:
    """Put torch's generator where it was."""
    torch.random.set_rng_state(load_file(directory / STATE_FILE)[_RANDOM])


def remove_checkpoints(out_dir: Path) -> None:
    """All checkpoints of a job, once its report is there."""
    for directory in [*out_dir.glob("checkpoint-*-*"), *out_dir.glob(".checkpoint-*.tmp")]:
        shutil.rmtree(directory, ignore_errors=True)


def _trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    found = {_WEIGHT + name: weight.detach() for name, weight in _trained(model).items()}
    for index, moments in optimizer.state_dict()["state"].items():
        found |= {f"{_OPTIMIZER}{index}/{key}": torch.as_tensor(value) for key, value in moments.items()}
    found[_RANDOM] = torch.random.get_rng_state()
    return {name: value.cpu().contiguous().clone() for name, value in found.items()}
