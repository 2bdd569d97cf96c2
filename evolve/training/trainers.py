"""TRL's trainer on packed token trees: learning from rows, and from pairs (DPO), with checkpoints in safe files.

TRL's own DPO trainer computes prompts twice a pair, multiplies every token with the whole vocabulary, and patches the
base's forward. Here a pair is one tree whose branches are the two answers, and the reference is measured once before
the first step. That both learn the same is a test (`tests/evolve/test_preference.py`).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from transformers import TrainerCallback
from trl import SFTTrainer

from evolve.training.checkpoint import (
    Checkpoint,
    load_optimizer,
    load_random,
    load_weights,
    read_meta,
    write_checkpoint,
)
from evolve.training.config import PreferenceTraining
from evolve.training.job import TrainingProgress
from evolve.training.pack import TokenPair, TokenRow, pack_rows
from evolve.training.share import Share

OnProgress = Callable[[TrainingProgress], None]


class LossNotFinite(RuntimeError):
    """A step's loss was NaN or infinite. The stock trainer would log an older loss in its place and go on."""


class Counts(NamedTuple):
    """What went through a model."""

    trained: int = 0
    computed: int = 0
    learned: int = 0
    attended: int = 0


class Keeping(NamedTuple):
    """Where and for whom checkpoints are kept."""

    out_dir: Path
    job: str
    stage: str


class PackedSFTTrainer(SFTTrainer):
    """Learns from rows; it counts what it does and stops at the first loss that is not finite."""

    num_trained = num_computed = num_learned = num_attended = 0
    keeping: Keeping | None = None
    share = Share()
    resumed_steps = 0
    earlier_seconds = 0.0
    seconds = 0.0
    """wall seconds of the steps, those before a resumption included; 0 until `train_from` ends"""
    _open_loss = 0.0
    _begun = 0.0

    def __init__(self, **kwargs: Any) -> None:
        """As `SFTTrainer`."""
        super().__init__(**kwargs)
        self.losses: list[float] = []

    @property
    def counts(self) -> Counts:
        """What went through the model, steps before a resumption included."""
        return Counts(self.num_trained, self.num_computed, self.num_learned, self.num_attended)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Weighted mean negative log-likelihood per learned token of the optimizer step."""
        nll = label_nll(model, inputs)
        total = self._total(len(inputs["labels"]) if num_items_in_batch is None else num_items_in_batch, nll)
        return self._noted((nll * inputs["label_weights"]).sum() / total, inputs)

    def close_step(self) -> float:
        """End of an optimizer step: its loss."""
        self.losses.append(self._open_loss)
        self._open_loss = 0.0
        return self.losses[-1]

    def train_from(self, checkpoint: Path | None) -> None:
        """Train, from a checkpoint of this very job or from the start; one at its last step trains no further."""
        self._begun = time.perf_counter()
        try:
            self._train_from(checkpoint)
        finally:
            self.seconds = self._seconds_so_far()

    def _train_from(self, checkpoint: Path | None) -> None:
        if checkpoint is None:
            self.train()
            return
        meta = read_meta(checkpoint)
        self.losses = list(meta.losses)
        self.resumed_steps, self.earlier_seconds = meta.step, meta.seconds
        for name, value in meta.counts.items():
            setattr(self, name, value)
        if meta.step >= self.args.max_steps:
            load_weights(checkpoint, self._learner)
        else:
            self.train(resume_from_checkpoint=str(checkpoint))

    def _seconds_so_far(self) -> float:
        return self.earlier_seconds + time.perf_counter() - self._begun

    def keep(self) -> None:
        """Write a checkpoint at the present step; of several processes one does."""
        if self.keeping is None or not self.share.is_first:
            return
        optimizer, scheduler = self._steppers
        schedule = scheduler.state_dict()
        meta = Checkpoint(
            job=self.keeping.job,
            stage=self.keeping.stage,
            step=self.state.global_step,
            sha256={},
            schedule=json.loads(json.dumps(schedule, default=lambda _: None)),
            rates=tuple(group["lr"] for group in optimizer.param_groups),
            counts={name: int(getattr(self, name)) for name in _COUNTS},
            losses=tuple(self.losses),
            seconds=self._seconds_so_far(),
        )
        state = json.dumps(asdict(self.state) | {"stateful_callbacks": {}, "log_history": []}, default=lambda _: None)
        write_checkpoint(self.keeping.out_dir, self._learner, optimizer, state, meta)

    @property
    def _learner(self) -> torch.nn.Module:
        return cast(torch.nn.Module, self.model)

    @property
    def _steppers(self) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        """Optimizer and schedule, which there are from the first step on."""
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        return self.optimizer, self.lr_scheduler

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.keep()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(Path(resume_from_checkpoint), self._learner)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            meta = read_meta(Path(checkpoint))
            optimizer, scheduler = self._steppers
            load_optimizer(Path(checkpoint), optimizer, meta.rates)
            scheduler.load_state_dict(dict(meta.schedule))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_random(Path(checkpoint))

    def _total(self, count: torch.Tensor | int, like: torch.Tensor) -> torch.Tensor | int:
        """What all processes of the job learn from in the step."""
        if self.share.is_alone:
            return count
        return self.share.total(torch.as_tensor(count, dtype=torch.float64, device=like.device).clone())

    def _noted(self, loss: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
        num_nodes = inputs["input_ids"].numel()
        seen = [int(inputs["num_row_tokens"]), num_nodes, len(inputs["labels"]), num_nodes * num_nodes]
        found = torch.tensor([float(loss.detach()), *seen], dtype=torch.float64, device=loss.device)
        # All processes note the same, and all stop at the same loss.
        value, *counts = self.share.total(found).tolist()
        if not math.isfinite(value):
            raise LossNotFinite(f"loss is {value} at step {self.state.global_step}")
        self._open_loss += value
        self.num_trained, self.num_computed, self.num_learned, self.num_attended = (
            before + int(now) for before, now in zip(self.counts, counts, strict=True)
        )
        return loss


_COUNTS = ("num_trained", "num_computed", "num_learned", "num_attended")


class PackedPreferenceTrainer(PackedSFTTrainer):
    """Learns from pairs: direct preference optimisation (Rafailov et al. 2023), sigmoid loss."""

    def __init__(self, *, settings: PreferenceTraining, **kwargs: Any) -> None:
        """As `SFTTrainer`, with what is to be learned from pairs."""
        super().__init__(**kwargs)
        self.settings = settings
        self.margins: dict[int, float] = {}
        """Pair to how much likelier the chosen text has become against the rejected one, in nats, when last seen."""

    @property
    def pairs_won(self) -> float | None:
        """Share of pairs whose chosen text gained on the rejected one, at the last look at each; None before any."""
        found = self.share.gathered(self.margins)
        return sum(m > 0 for m in found.values()) / len(found) if found else None

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Weighted mean loss per pair of the optimizer step."""
        chosen, rejected, chosen_length = answer_likelihoods(model, inputs)
        margins = chosen - rejected - inputs["reference"]
        losses = dpo_losses(margins, self.settings.beta, self.settings.label_smoothing)
        if self.settings.nll_weight:
            losses = losses - self.settings.nll_weight * chosen / chosen_length
        for pair, margin in zip(inputs["pair_numbers"].tolist(), margins.detach().tolist(), strict=True):
            self.margins[pair] = margin
        total = self._total(len(losses) if num_items_in_batch is None else num_items_in_batch, losses)
        return self._noted((losses * inputs["pair_weights"]).sum() / total, inputs)


class Watch(TrainerCallback):
    """Closes steps and tells how far training is."""

    def __init__(self, recipe: str, on_progress: OnProgress | None, *, before: int = 0, after: int = 0) -> None:
        """`before`, `after`: steps of other stages, so that the whole job counts as one."""
        self._recipe, self._on_progress = recipe, on_progress
        self._before, self._after = before, after
        self._started = time.perf_counter()
        self.trainer: PackedSFTTrainer | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer after each optimizer step."""
        loss = self.trainer.close_step() if self.trainer is not None else None
        if self._on_progress is not None:
            self._on_progress(
                TrainingProgress(
                    recipe=self._recipe,
                    step=self._before + state.global_step,
                    num_steps=self._before + state.max_steps + self._after,
                    loss=loss,
                    seconds=time.perf_counter() - self._started,
                )
            )


def label_nll(model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
    """(m,) negative log-likelihood of every label of a packed pass, in float32."""
    inputs_of_model = {k: inputs[k] for k in ("input_ids", "position_ids", "attention_mask") if k in inputs}
    output = model(**inputs_of_model, logits_to_keep=inputs["label_positions"], use_cache=False)
    return torch.nn.functional.cross_entropy(output.logits[0].float(), inputs["labels"], reduction="none")


def answer_likelihoods(
    model: torch.nn.Module, inputs: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(p,) each: log-likelihood of the chosen and of the rejected answers, and tokens of the chosen ones."""
    nll = label_nll(model, inputs)
    rows = inputs["label_rows"]
    num_rows = 2 * len(inputs["pair_weights"])
    sums = torch.zeros(num_rows, dtype=nll.dtype, device=nll.device).index_add(0, rows, -nll)
    return sums[0::2], sums[1::2], torch.bincount(rows, minlength=num_rows)[0::2]


def dpo_losses(margins: torch.Tensor, beta: float, label_smoothing: float = 0.0) -> torch.Tensor:
    """Loss of each pair, from how much likelier its chosen text became against the rejected one (nats)."""
    right = torch.nn.functional.logsigmoid(beta * margins)
    if not label_smoothing:
        return -right
    wrong = torch.nn.functional.logsigmoid(-beta * margins)
    return -(1 - label_smoothing) * right - label_smoothing * wrong


def collate(examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """One packed pass: `input_ids` and `position_ids` (1, n), `attention_mask` (1, 1, n, n) where rows share a
    beginning, and (m,) each of `labels`, `label_positions`, `label_weights`."""
    rows = [TokenRow(tuple(e["token_ids"]), e["completion_start"], e["weight"]) for e in examples]
    packed = pack_rows(rows)
    batch = {
        "input_ids": torch.from_numpy(packed.token_ids)[None],
        "position_ids": torch.from_numpy(packed.depths)[None],
        "labels": torch.from_numpy(packed.label_ids),
        # The trainer counts this one as it is; of `labels` it would leave out the first.
        "shift_labels": torch.from_numpy(packed.label_ids),
        "label_positions": torch.from_numpy(packed.label_positions),
        "label_weights": torch.from_numpy(packed.label_weights),
        "num_row_tokens": torch.tensor(sum(len(row.token_ids) for row in rows)),
    }
    if len(rows) > 1:
        batch["attention_mask"] = torch.from_numpy(packed.visible)[None, None]
    return batch


def collate_pairs(examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """One packed pass of p pairs, chosen and rejected rows by turns: as `collate`, with `label_rows` (m,), the row a
    label belongs to, and (p,) each of `pair_weights`, `pair_numbers` and `reference`, the margin before learning."""
    rows: list[dict[str, Any]] = []
    for example in examples:
        for side in ("chosen", "rejected"):
            rows.append({"token_ids": example[side], "completion_start": example[f"{side}_start"], "weight": 1.0})
    batch = collate(rows)
    lengths = torch.tensor([len(row["token_ids"]) - row["completion_start"] for row in rows])
    return batch | {
        "label_rows": torch.repeat_interleave(torch.arange(len(rows)), lengths),
        "pair_weights": torch.tensor([example["weight"] for example in examples], dtype=torch.float32),
        "pair_numbers": torch.tensor([example["number"] for example in examples]),
        "reference": torch.tensor([example["reference"] for example in examples], dtype=torch.float32),
        # What the trainer counts, and divides the step's loss by: pairs.
        "shift_labels": torch.zeros(len(examples), dtype=torch.long),
    }


def pair_examples(pairs: Sequence[TokenPair]) -> list[dict[str, Any]]:
    """What `collate_pairs` takes, the reference still 0."""
    return [
        {
            "chosen": list(pair.chosen.token_ids),
            "chosen_start": pair.chosen.completion_start,
            "rejected": list(pair.rejected.token_ids),
            "rejected_start": pair.rejected.completion_start,
            "weight": pair.weight,
            "number": number,
            "reference": 0.0,
        }
        for number, pair in enumerate(pairs)
    ]


def with_reference(
    model: torch.nn.Module, examples: Sequence[dict[str, Any]], at_once: int
) -> tuple[list[dict[str, Any]], Counts]:
    """The examples with the model's own margin on each as reference; and what went through the model for it."""
    found: list[dict[str, Any]] = []
    counts = Counts()
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, len(examples), at_once):
            some = examples[start : start + at_once]
            inputs = {name: value.to(device) for name, value in collate_pairs(some).items()}
            chosen, rejected, _ = answer_likelihoods(model, inputs)
            margins = (chosen - rejected).tolist()
            found += [example | {"reference": margin} for example, margin in zip(some, margins, strict=True)]
            num = inputs["input_ids"].numel()
            counts = Counts(
                counts.trained,
                counts.computed + num,
                counts.learned + len(inputs["labels"]),
                counts.attended + num * num,
            )
    model.train(was_training)
    return found, counts
