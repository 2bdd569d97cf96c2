"""Train one LoRA adapter with TRL and PEFT. Heavy to import: only a training process does.

Two things are done by hand. The loss reads logits at learned positions alone: TRL's own loss, on a CPU, multiplies
every prompt token with the whole vocabulary. And rows of a batch share their common beginning (`evolve.pack`).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
)
from transformers.utils.logging import disable_progress_bar
from trl import SFTConfig, SFTTrainer

from evolve.adapter_files import publish_adapter
from evolve.pack import TokenRow, pack_rows, rows_per_pass
from evolve.tokenise import tokenise
from evolve.training_config import BaseDtype, LoraTraining
from evolve.training_job import TrainingJob, TrainingProgress, TrainingReport, diverged, publish_report, quarantined
from serving.render import Renderer

# Attention alone learns less; embeddings and the head cannot be served as part of an adapter.
TARGET_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FLOPS_PER_WEIGHT = 4
"""A multiplication and an addition a weight forward, the same backward; frozen weights take no third pass."""

OnProgress = Callable[[TrainingProgress], None]


class LossNotFinite(RuntimeError):
    """A step's loss was NaN or infinite. The stock trainer would log an older loss in its place and go on."""


def train_lora(job: TrainingJob, on_progress: OnProgress | None = None) -> TrainingReport:
    """Train, save the adapter into `job.adapter_dir` and publish the report; the same job gives the same adapter
    on the same hardware, versions and number of threads.

    A loss that is not finite or diverges gives a quarantined report and no adapter.

    Raises:
        TypeError: the recipe does not train a LoRA adapter.
        OSError: the base model cannot be read, or the adapter not be written.
    """
    training = job.recipe.training
    if not isinstance(training, LoraTraining):
        raise TypeError(f"expected a job with training.kind 'lora', got {training.kind!r}")
    started = time.perf_counter()
    torch.set_num_threads(training.num_threads)
    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(job.base_dir, local_files_only=True)
    model = load_base(Path(job.base_dir), training.base_dtype)
    rows, num_left_out = tokenise(_renderer(tokenizer, model), tokenizer, job.rows, training.max_length)
    if not rows:
        report = quarantined(job, f"no rows to learn from: {num_left_out} left out as longer than max_length or unfit")
    else:
        report = _train(job, training, model, tokenizer, rows, on_progress, started)
        report = report.model_copy(update={"num_rows_left_out": num_left_out})
    publish_report(job, report)
    return report


def load_base(directory: Path, dtype: BaseDtype = "auto") -> PreTrainedModel:
    """The frozen base, in the number type asked for; `auto` is `fastest_dtype()`."""
    chosen = fastest_dtype() if dtype == "auto" else getattr(torch, dtype)
    return AutoModelForCausalLM.from_pretrained(
        directory, dtype=chosen, attn_implementation="sdpa", local_files_only=True, use_safetensors=True
    )


def fastest_dtype() -> torch.dtype:
    """bfloat16 on GPUs and on CPUs with instructions for it; on others it is several times slower than float32."""
    cpu = torch.cpu.get_capabilities()
    has_bf16 = torch.cuda.is_available() or cpu.get("amx_bf16", False) or cpu.get("avx512_bf16", False)
    return torch.bfloat16 if has_bf16 else torch.float32


def can_share_beginnings(model: PreTrainedModel, longest: int) -> bool:
    """Whether every layer is attention that sees the whole of a row of `longest` tokens."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    if "sliding_attention" in kinds and window is not None and longest > window:
        return False
    return kinds <= {"full_attention", "sliding_attention"}


class PackedSFTTrainer(SFTTrainer):
    """TRL's trainer on packed token trees; it counts what it does and stops at the first loss that is not finite."""

    num_trained = num_computed = num_learned = 0
    _open_loss = 0.0

    def __init__(self, **kwargs: Any) -> None:
        """As `SFTTrainer`."""
        super().__init__(**kwargs)
        self.losses: list[float] = []

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Weighted mean negative log-likelihood per learned token of the optimizer step."""
        labels, weights = inputs["labels"], inputs["label_weights"]
        inputs_of_model = {k: inputs[k] for k in ("input_ids", "position_ids", "attention_mask") if k in inputs}
        output = model(**inputs_of_model, logits_to_keep=inputs["label_positions"], use_cache=False)
        nll = torch.nn.functional.cross_entropy(output.logits[0].float(), labels, reduction="none")
        total = len(labels) if num_items_in_batch is None else num_items_in_batch
        loss = (nll * weights).sum() / total
        value = float(loss.detach())
        if not torch.isfinite(loss):
            raise LossNotFinite(f"loss is {value} at step {self.state.global_step}")
        self._open_loss += value
        self.num_trained += int(inputs["num_row_tokens"])
        self.num_computed += inputs["input_ids"].numel()
        self.num_learned += len(labels)
        return loss

    def close_step(self) -> float:
        """End of an optimizer step: its loss."""
        self.losses.append(self._open_loss)
        self._open_loss = 0.0
        return self.losses[-1]


class _Watch(TrainerCallback):
    """Closes steps and tells how far training is."""

    def __init__(self, recipe: str, on_progress: OnProgress | None) -> None:
        self._recipe, self._on_progress = recipe, on_progress
        self._started = time.perf_counter()
        self.trainer: PackedSFTTrainer | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer after each optimizer step."""
        loss = self.trainer.close_step() if self.trainer is not None else None
        if self._on_progress is not None:
            seconds = time.perf_counter() - self._started
            self._on_progress(
                TrainingProgress(
                    recipe=self._recipe, step=state.global_step, num_steps=state.max_steps, loss=loss, seconds=seconds
                )
            )


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


def _train(
    job: TrainingJob,
    training: LoraTraining,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[TokenRow],
    on_progress: OnProgress | None,
    started: float,
) -> TrainingReport:
    watch = _Watch(job.recipe.name, on_progress)
    num_body, num_head = _num_weights(model)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = _trainer(training, model, tokenizer, rows, watch, scratch, job.seed)
        watch.trainer = trainer
        adapted = cast(PeftModel, trainer.model)
        begun = time.perf_counter()
        try:
            trainer.train()
            reason = diverged(trainer.losses) or _not_finite(adapted)
        except LossNotFinite as error:
            reason = str(error)
    report = TrainingReport(
        job=job.digest,
        recipe=job.recipe.name,
        base_name=job.base_name,
        status="quarantined" if reason else "ok",
        reason=reason or "",
        losses=tuple(round(loss, 6) for loss in trainer.losses),
        num_rows=len(rows),
        trained_tokens=trainer.num_trained,
        computed_tokens=trainer.num_computed,
        learned_tokens=trainer.num_learned,
        seconds=time.perf_counter() - begun,
        load_seconds=begun - started,
        flops=float(FLOPS_PER_WEIGHT * (num_body * trainer.num_computed + num_head * trainer.num_learned)),
        base_dtype=str(model.dtype).removeprefix("torch."),
    )
    if reason:
        return report
    digest = publish_adapter(job.adapter_dir, job.base_name, lambda path: adapted.save_pretrained(str(path)))
    return report.model_copy(update={"adapter_sha256": digest})


def _trainer(
    training: LoraTraining,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[TokenRow],
    watch: _Watch,
    scratch: str,
    seed: int,
) -> PackedSFTTrainer:
    longest = max(len(row.token_ids) for row in rows)
    limit = training.max_packed_tokens if can_share_beginnings(model, longest) else 1
    at_once = rows_per_pass(longest, training.batch_size, limit)
    steps_per_epoch = -(-len(rows) // training.batch_size)
    num_steps = min(training.max_steps or steps_per_epoch * training.num_epochs, steps_per_epoch * training.num_epochs)
    schedule = {"constant": "constant_with_warmup"}.get(training.schedule, training.schedule)
    trainer = PackedSFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=scratch,
            per_device_train_batch_size=at_once,
            gradient_accumulation_steps=training.batch_size // at_once,
            max_steps=num_steps,
            learning_rate=training.learning_rate,
            lr_scheduler_type=schedule,
            warmup_steps=round(training.warmup_share * num_steps),
            weight_decay=training.weight_decay,
            max_grad_norm=training.max_grad_norm,
            seed=seed,
            data_seed=seed,
            use_cpu=not torch.cuda.is_available(),
            bf16=False,  # no autocast: the base keeps its own type
            gradient_checkpointing=False,
            dataloader_num_workers=0,
            dataloader_pin_memory=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            max_length=None,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        data_collator=collate,
        train_dataset=Dataset.from_list([row._asdict() for row in rows]),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=training.rank,
            lora_alpha=training.alpha,
            lora_dropout=0.0,
            target_modules=TARGET_MODULES,
            task_type="CAUSAL_LM",
        ),
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)  # it prints to the standard output, which belongs to the command line
    return trainer


def _renderer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Renderer:
    ends = model.generation_config.eos_token_id if model.generation_config is not None else None
    return Renderer(tokenizer, extra_stop_ids=[ends] if isinstance(ends, int) else ends or [])


def _num_weights(model: PreTrainedModel) -> tuple[int, int]:
    """Weights of the layers that every token passes, and of the head that learned positions pass."""
    embeddings = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    body = sum(p.numel() for p in model.parameters() if p.ndim >= 2 and id(p) not in embeddings)
    return body, model.get_output_embeddings().weight.numel()


def _not_finite(model: torch.nn.Module) -> str | None:
    for name, weight in model.named_parameters():
        if weight.requires_grad and not bool(torch.isfinite(weight).all()):
            return f"{name} holds NaN or infinity after the last step"
    return None
