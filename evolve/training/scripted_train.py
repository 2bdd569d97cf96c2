"""Training for simulations: no learning, a valid tiny adapter that depends on the job alone, without torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from evolve.training.adapter_files import CONFIG_FILE, WEIGHTS_FILE, publish_adapter
from evolve.training.config import ScriptedTraining
from evolve.training.job import TrainingJob, TrainingReport, publish_report, quarantined
from memory.types import content_hash
from serving.adapters import BaseModelShape

_MODULE = "model.layers.0.self_attn.q_proj"
_WIDTH = 8


def scripted_shape(base_name: str) -> BaseModelShape:
    """The made-up base model of a scripted engine without one of its own; differs between names."""
    return BaseModelShape(
        name=base_name, fingerprint=content_hash({"scripted": base_name}), matrices={_MODULE: (_WIDTH, _WIDTH)}
    )


def train_scripted(job: TrainingJob) -> TrainingReport:
    """Write the adapter and its report; the same job always gives the same bytes.

    The adapter fits the model in `job.base_dir`, or `scripted_shape(job.base_name)` where that is "".
    """
    training = job.recipe.training
    if not isinstance(training, ScriptedTraining):
        raise TypeError(
            f"expected a job with training.kind 'scripted', got {training.kind!r}; run it with evolve.training.train"
        )
    if training.diverges:
        report = quarantined(job, "loss is nan at step 0 (scripted)")
    elif not job.rows:
        report = quarantined(job, "no rows to learn from")
    else:
        report = _train(job, training.rank)
    publish_report(job, report)
    return report


def _train(job: TrainingJob, rank: int) -> TrainingReport:
    shape = BaseModelShape.from_directory(Path(job.base_dir)) if job.base_dir else scripted_shape(job.base_name)
    module = min(name for name in shape.matrices if name.endswith(".q_proj"))
    num_out, num_in = shape.matrices[module]
    rng = np.random.default_rng(int(job.digest[:16], 16))

    def write(directory: Path) -> None:
        weights = {
            f"base_model.model.{module}.lora_A.weight": rng.standard_normal((rank, num_in), dtype=np.float32),
            f"base_model.model.{module}.lora_B.weight": rng.standard_normal((num_out, rank), dtype=np.float32),
        }
        # Not `save_file`, which tells of a full disk by an error of its own that is no OSError.
        (directory / WEIGHTS_FILE).write_bytes(save(weights))
        # A scripted engine's gain goes with the scale: shuffled targets teach a tenth of what right ones do.
        alpha = rank / 10 if job.recipe.placebo else rank
        config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": alpha, "bias": "none"}
        config |= {"lora_dropout": 0.0, "target_modules": [module.rpartition(".")[2]], "inference_mode": True}
        (directory / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")

    num_tokens = sum(len(m.text.split()) for row in job.rows for m in row.messages)
    return TrainingReport(
        job=job.digest,
        recipe=job.recipe.name,
        base_name=job.base_name,
        status="ok",
        losses=tuple(round(2.0 / (step + 1), 6) for step in range(4)),
        num_rows=len(job.rows),
        trained_tokens=num_tokens,
        computed_tokens=num_tokens,
        learned_tokens=sum(len(row.completion.split()) for row in job.rows),
        adapter_sha256=publish_adapter(job.adapter_dir, job.base_name, write),
    )
