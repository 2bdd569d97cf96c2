"""Train one LoRA adapter with TRL and PEFT: rows, then pairs. Heavy to import: only a training process does.

Two things are done by hand. The loss reads logits at learned positions alone: TRL's own loss, on a CPU, multiplies
every prompt token with the whole vocabulary. And rows of a batch share their common beginning (`evolve.training.pack`).
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
)
from transformers.utils.logging import disable_progress_bar
from trl import SFTConfig

from evolve.training.adapter_files import publish_adapter
from evolve.training.checkpoint import latest_checkpoint, remove_checkpoints
from evolve.training.config import BaseDtype, LoraTraining, PreferenceTraining
from evolve.training.flops import ModelSize, TokenCounts, forward_flops, training_flops
from evolve.training.job import TrainingJob, TrainingReport, diverged, publish_report, quarantined
from evolve.training.lora_files import TARGET_MODULES, AdapterUnfit, LoraFile
from evolve.training.pack import TokenPair, TokenRow, rows_per_pass
from evolve.training.share import Share
from evolve.training.steps import num_steps
from evolve.training.tokenise import tokenise, tokenise_pairs
from evolve.training.trainers import (
    Counts,
    Keeping,
    LossNotFinite,
    OnProgress,
    PackedPreferenceTrainer,
    PackedSFTTrainer,
    Watch,
    collate,
    collate_pairs,
    pair_examples,
    with_reference,
)
from serving.render import Renderer

__all__ = ["Base", "Bases", "LossNotFinite", "PackedSFTTrainer", "collate", "load_base", "train_lora"]

ALONE = Share()


class Base(NamedTuple):
    """A loaded base model; between two jobs it is as it was loaded."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


class Bases:
    """Base models that stay loaded from one job to the next; one at a time, as memory is for training."""

    def __init__(self) -> None:
        self._key: tuple[str, str] | None = None
        self._base: Base | None = None

    def forget(self) -> None:
        """Load anew at the next call: the base may not be as it was loaded."""
        self._base = None

    def get(self, directory: str, dtype: BaseDtype) -> Base:
        """The base, loaded where it is not the one of the last job. Raises OSError."""
        if self._base is None or self._key != (directory, dtype):
            self._base = None
            gc.collect()
            self._base = _load(Path(directory), dtype)
            self._key = (directory, dtype)
        return self._base


def train_lora(
    job: TrainingJob,
    on_progress: OnProgress | None = None,
    bases: Bases | None = None,
    share: Share = ALONE,
) -> TrainingReport:
    """Train, save the adapter into `job.adapter_dir` and publish the report; the same job gives the same adapter
    on the same hardware, versions and number of threads, on a base that is loaded for it or in `bases` already,
    uninterrupted or continued from a checkpoint.

    A loss that is not finite or diverges, a parent that does not fit, or too little memory give a quarantined report
    and no adapter.

    `share`: this process's place among several that train the job together, all of which call this and get the same
    report; their adapter is that of one process up to the order of sums.

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
    bases = bases or Bases()
    base = bases.get(job.base_dir, training.base_dtype)
    renderer = _renderer(base.tokenizer, base.model)
    rows, num_left_out = tokenise(renderer, base.tokenizer, job.rows, training.max_length)
    pairs, num_pairs_left_out = tokenise_pairs(renderer, base.tokenizer, job.pairs, training.max_length)
    if not rows:
        report = quarantined(job, f"no rows to learn from: {num_left_out} left out as longer than max_length or unfit")
    else:
        report = _Training(job, training, base, rows, pairs, on_progress, started, bases.forget, share).run()
    report = report.model_copy(update={"num_rows_left_out": num_left_out, "num_pairs_left_out": num_pairs_left_out})
    if share.is_first:
        publish_report(job, report)
        remove_checkpoints(Path(job.out_dir))
    return report


def _load(directory: Path, dtype: BaseDtype) -> Base:
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    return Base(load_base(directory, dtype), tokenizer)


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


class _Training:
    """One job on a loaded base: its stages one after the other, and the base left as it was found."""

    def __init__(
        self,
        job: TrainingJob,
        training: LoraTraining,
        base: Base,
        rows: Sequence[TokenRow],
        pairs: Sequence[TokenPair],
        on_progress: OnProgress | None,
        started: float,
        forget_base: Callable[[], None],
        share: Share,
    ) -> None:
        self._job, self._training, self._base = job, training, base
        self._rows, self._pairs, self._on_progress = rows, list(pairs), on_progress
        self._begun = self._started = started
        self._forget_base, self._share = forget_base, share
        self._notes: list[str] = []
        self._trainers: list[PackedSFTTrainer] = []
        self._looked = Counts()
        if training.preference is not None and 0 < len(self._pairs) < training.preference.min_pairs:
            self._notes.append(f"{len(self._pairs)} usable pairs, fewer than min_pairs: nothing was learned from them")
            self._pairs = []

    def run(self) -> TrainingReport:
        """The report, the adapter saved if it is fit to be."""
        adapted: PeftModel | PreTrainedModel = self._base.model
        size = _size_of(self._base.model)
        reason: str | None = None
        with tempfile.TemporaryDirectory() as scratch:
            try:
                adapted = self._learn_rows(self._start(self._base.model), scratch)
                reason = diverged(self._trainers[0].losses) or _not_finite(adapted)
                if reason is None and self._preference is not None:
                    adapted = self._learn_pairs(adapted, self._preference, scratch)
                    reason = diverged(self._trainers[1].losses) or _not_finite(adapted)
            except (LossNotFinite, AdapterUnfit) as error:
                reason = str(error)
            except (MemoryError, RuntimeError) as error:
                # Of several processes one may be out of memory: the others would wait for it for ever.
                if not _is_out_of_memory(error) or not self._share.is_alone:
                    raise
                self._forget_base()
                reason = self._too_large(error)
            if self._trainers:
                adapted = cast(PeftModel, self._trainers[-1].model)
            num_adapter = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
            report = self._report(reason, size._replace(num_adapter=num_adapter))
            try:
                if reason is None and self._share.is_first:
                    report = report.model_copy(update={"adapter_sha256": self._publish(cast(PeftModel, adapted))})
            finally:
                self._trainers.clear()
                if self._share.is_alone:
                    _restore(adapted)
        return report

    @property
    def _preference(self) -> PreferenceTraining | None:
        return self._training.preference if self._pairs else None

    def _start(self, model: PreTrainedModel) -> PreTrainedModel | PeftModel:
        """The base, or the base with the parent's adapter on it, ready to be trained further."""
        if not self._job.parents:
            return model if self._share.is_alone else self._spread(self._adapted(model))
        directory = Path(self._job.parents[0].directory)
        targets = LoraFile(directory).config.target_modules
        if not set(targets) <= set(TARGET_MODULES):
            raise AdapterUnfit(f"{directory}: expected an adapter on {TARGET_MODULES}, got one on {targets}")
        found = PeftModel.from_pretrained(model, str(directory), is_trainable=True)
        return found if self._share.is_alone else self._spread(found)

    def _adapted(self, model: PreTrainedModel) -> PeftModel:
        """The base with a fresh adapter, the same in every process."""
        torch.manual_seed(self._job.seed)
        return cast(PeftModel, get_peft_model(model, _lora_config(self._training)))

    def _spread(self, model: PeftModel) -> PeftModel:
        self._notes.append(self._share.spread(model, torch.device("cuda" if torch.cuda.is_available() else "cpu")))
        return model

    def _learn_rows(self, model: PreTrainedModel | PeftModel, scratch: str) -> PeftModel:
        training, job = self._training, self._job
        longest = max(len(row.token_ids) for row in self._rows)
        at_once = self._at_once(self._rows, training.batch_size, longest)
        num_updates = num_steps(len(self._rows), training.batch_size, training.num_epochs, training.max_steps)
        later = self._preference
        num_later = 0
        if later is not None:
            num_later = num_steps(len(self._pairs), later.batch_size, later.num_epochs, later.max_steps)
        watch = Watch(job.recipe.name, self._on_progress, after=num_later)
        fresh = None if isinstance(model, PeftModel) else _lora_config(training)
        trainer = PackedSFTTrainer(
            model=model,
            args=self._arguments(scratch, at_once, training.batch_size, num_updates, training.learning_rate),
            data_collator=self._share.collating(collate),
            train_dataset=Dataset.from_list([row._asdict() for row in self._rows]),
            processing_class=self._base.tokenizer,
            peft_config=fresh,
            callbacks=[watch],
        )
        return self._train(trainer, watch, "rows", keep_last=later is not None)

    def _learn_pairs(self, model: PeftModel, settings: PreferenceTraining, scratch: str) -> PeftModel:
        num_updates = num_steps(len(self._pairs), settings.batch_size, settings.num_epochs, settings.max_steps)
        rows = [row for pair in self._pairs for row in (pair.chosen, pair.rejected)]
        longest = max(len(row.token_ids) for row in rows)
        at_once = self._at_once(rows, settings.batch_size, longest, together=2)
        examples, self._looked = with_reference(model, pair_examples(self._pairs), max(1, at_once // self._share.world))
        watch = Watch(self._job.recipe.name, self._on_progress, before=len(self._trainers[0].losses))
        trainer = PackedPreferenceTrainer(
            settings=settings,
            model=model,
            args=self._arguments(scratch, at_once, settings.batch_size, num_updates, settings.learning_rate),
            data_collator=self._share.collating(collate_pairs),
            train_dataset=Dataset.from_list(examples),
            processing_class=self._base.tokenizer,
            callbacks=[watch],
        )
        return self._train(trainer, watch, "pairs")

    def _train(self, trainer: PackedSFTTrainer, watch: Watch, stage: str, *, keep_last: bool = False) -> PeftModel:
        watch.trainer, trainer.share = trainer, self._share
        # It prints to the standard output, which belongs to the command line.
        trainer.remove_callback(PrinterCallback)
        checkpoint = None
        out_dir = Path(self._job.out_dir)
        if self._job.checkpoint_steps is not None:
            trainer.keeping = Keeping(out_dir, self._job.digest, stage)
            checkpoint, notes = latest_checkpoint(out_dir, stage, self._job.digest)
            self._notes += notes
        if not self._trainers:
            self._begun = time.perf_counter()
        self._trainers.append(trainer)
        trainer.train_from(checkpoint)
        if keep_last and trainer.resumed_steps < trainer.args.max_steps:
            trainer.keep()
        return cast(PeftModel, trainer.model)

    def _at_once(self, rows: Sequence[TokenRow], batch_size: int, longest: int, together: int = 1) -> int:
        each = rows_per_pass(rows, batch_size, self._packed_tokens(longest), together=together)
        return self._share.examples_at_once(each, batch_size)

    def _packed_tokens(self, longest: int) -> int:
        return self._training.max_packed_tokens if can_share_beginnings(self._base.model, longest) else 1

    def _arguments(self, scratch: str, at_once: int, batch_size: int, num_steps: int, rate: float) -> SFTConfig:
        training, every = self._training, self._job.checkpoint_steps
        return SFTConfig(
            output_dir=scratch,
            per_device_train_batch_size=at_once,
            gradient_accumulation_steps=batch_size // at_once,
            max_steps=num_steps,
            learning_rate=rate,
            lr_scheduler_type={"constant": "constant_with_warmup"}.get(training.schedule, training.schedule),
            warmup_steps=round(training.warmup_share * num_steps),
            weight_decay=training.weight_decay,
            max_grad_norm=training.max_grad_norm,
            seed=self._job.seed,
            data_seed=self._job.seed,
            use_cpu=not torch.cuda.is_available(),
            bf16=False,  # no autocast: the base keeps its own type
            gradient_checkpointing=False,
            dataloader_num_workers=0,
            dataloader_pin_memory=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            max_length=None,
            logging_strategy="no",
            save_strategy="no" if every is None else "steps",
            save_steps=every or 500,
            report_to="none",
            disable_tqdm=True,
        )

    def _too_large(self, error: BaseException) -> str:
        training = self._training
        return (
            f"out of memory ({str(error).splitlines()[0][:160] if str(error) else type(error).__name__}); lower "
            f"training.max_packed_tokens ({training.max_packed_tokens}), max_length ({training.max_length}) or rank "
            f"({training.rank}), or train where there is more memory"
        )

    def _publish(self, adapted: PeftModel) -> str:
        job = self._job

        def write(path: Path) -> None:
            # Left to itself PEFT asks a hub whether the base's vocabulary has grown.
            adapted.save_pretrained(str(path), save_embedding_layers=False)

        return publish_adapter(job.adapter_dir, job.base_name, write)

    def _report(self, reason: str | None, size: ModelSize) -> TrainingReport:
        job, trainers = self._job, self._trainers
        counts = [trainer.counts for trainer in trainers]
        flops = [training_flops(size, _tokens(one)) for one in counts] + [forward_flops(size, _tokens(self._looked))]
        pairs = trainers[1] if len(trainers) > 1 else None
        return TrainingReport(
            job=job.digest,
            recipe=job.recipe.name,
            base_name=job.base_name,
            status="quarantined" if reason else "ok",
            reason=reason or "",
            losses=tuple(round(loss, 6) for loss in trainers[0].losses) if trainers else (),
            num_rows=len(self._rows),
            trained_tokens=sum(one.trained for one in counts),
            computed_tokens=sum(one.computed for one in counts) + self._looked.computed,
            learned_tokens=sum(one.learned for one in counts),
            seconds=sum(trainer.seconds for trainer in trainers),
            load_seconds=self._begun - self._started,
            flops=sum(flops),
            base_dtype=str(self._base.model.dtype).removeprefix("torch."),
            pair_losses=tuple(round(loss, 6) for loss in pairs.losses) if pairs is not None else (),
            num_pairs=len(self._pairs),
            pairs_won=pairs.pairs_won if isinstance(pairs, PackedPreferenceTrainer) else None,
            resumed_steps=sum(trainer.resumed_steps for trainer in trainers),
            notes=tuple(self._notes),
        )


def _renderer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Renderer:
    ends = model.generation_config.eos_token_id if model.generation_config is not None else None
    return Renderer(tokenizer, extra_stop_ids=[ends] if isinstance(ends, int) else ends or [])


def _lora_config(training: LoraTraining) -> LoraConfig:
    return LoraConfig(
        r=training.rank,
        lora_alpha=training.alpha,
        lora_dropout=0.0,
        target_modules=TARGET_MODULES,
        task_type="CAUSAL_LM",
    )


def _size_of(model: PreTrainedModel) -> ModelSize:
    """Weights of the layers that every token passes and of the head that learned positions pass; attention's width."""
    embeddings = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    config = model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelSize(
        num_body=sum(p.numel() for p in model.parameters() if p.ndim >= 2 and id(p) not in embeddings),
        num_head=model.get_output_embeddings().weight.numel(),
        attention_width=width * config.num_attention_heads * config.num_hidden_layers,
    )


def _tokens(counts: Counts) -> TokenCounts:
    return TokenCounts(computed=counts.computed, learned=counts.learned, attended=counts.attended)


def _restore(adapted: PeftModel | PreTrainedModel) -> None:
    """Take adapter and patches off the base, so that the next job finds it as it was loaded."""
    base = cast(Any, adapted.unload() if isinstance(adapted, PeftModel) else adapted)
    # TRL puts a fused head before the model's own forward, anew for every trainer.
    base.__dict__.pop("forward", None)
    if hasattr(base, "peft_config"):
        del base.peft_config
    for weight in base.parameters():
        weight.grad = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _is_out_of_memory(error: BaseException) -> bool:
    # On a CPU torch raises a plain RuntimeError.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _not_finite(model: torch.nn.Module) -> str | None:
    for name, weight in model.named_parameters():
        if weight.requires_grad and not bool(torch.isfinite(weight).all()):
            return f"{name} holds NaN or infinity after the last step"
    return None
