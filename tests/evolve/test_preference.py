from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from evolve.learning.recipe_rows import PreferenceRow, TrainingRow
from evolve.learning.recipes import Recipe
from evolve.training.config import LoraTraining, PreferenceTraining
from evolve.training.job import TrainingJob, TrainingProgress
from evolve.training.merge import distance
from evolve.training.tokenise import tokenise_pairs
from mesh.types import Message, Part
from serving.adapters import AdapterStore, BaseModelShape
from serving.render import Renderer
from tests.evolve.tiny_tokenizer import make_tokenizer

# Importing TRL takes as long as all unit tests together, so it happens in fixtures: this file is collected with them.
pytestmark = pytest.mark.engine


def prompt(question: str) -> tuple[Message, ...]:
    return (Message(role="user", parts=(Part(text=f"Add up.\n{question}"),)),)


def pair(a: int, b: int, rejected: str = "", weight: float = 1.0) -> PreferenceRow:
    question = f"What is {a} + {b}?"
    return PreferenceRow(
        task_id=question,
        task_type="sum",
        messages=prompt(question),
        chosen=str(a + b),
        rejected=rejected or f"perhaps {a - b}",
        weight=weight,
    )


PAIRS = tuple(pair(a, b) for a in range(3, 7) for b in range(2, 5))
ROWS = tuple(TrainingRow(task_id=p.task_id, task_type="sum", messages=p.messages, completion=p.chosen) for p in PAIRS)


def job(base: Path, out: Path, pairs: tuple[PreferenceRow, ...] = PAIRS, **preference: Any) -> TrainingJob:
    settings = PreferenceTraining.model_validate(
        {"learning_rate": 0.01, "batch_size": 4, "num_epochs": 2, "min_pairs": 2, **preference}
    )
    training = LoraTraining(rank=4, alpha=8, batch_size=4, num_threads=1, num_epochs=1, preference=settings)
    recipe = Recipe(name="g0-tiny-own", base="tiny", family="tiny", mix=("own_correct",), training=training, seed=5)
    return TrainingJob(
        base_name="tiny-1", base_dir=str(base), recipe=recipe, rows=ROWS, pairs=pairs, seed=5, out_dir=str(out)
    )


@pytest.fixture(scope="module")
def lib() -> ModuleType:
    import evolve.training.train

    return evolve.training.train


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.evolve.tiny_model import make_model

    return make_model(tmp_path_factory.mktemp("tiny"))


def test_pairs_after_rows_make_chosen_texts_likelier_than_rejected_ones(lib, base, tmp_path):
    seen: list[TrainingProgress] = []
    report = lib.train_lora(job(base, tmp_path / "out"), seen.append)
    assert report.status == "ok", report.reason
    assert (len(report.losses), len(report.pair_losses), report.num_pairs) == (3, 6, 12)
    assert report.pair_losses[0] == pytest.approx(math.log(2), abs=1e-3), "nothing is preferred before the first step"
    assert report.pair_losses[-1] < 0.9 * math.log(2)
    assert report.pairs_won == 1.0
    assert [p.step for p in seen] == list(range(1, 10))
    assert {p.num_steps for p in seen} == {9}
    shape = BaseModelShape.from_directory(base)
    assert AdapterStore(tmp_path / "store").admit(tmp_path / "out/adapter", shape, max_rank=8).rank == 4


def test_a_training_without_pairs_is_the_one_it_always_was(lib, base, tmp_path):
    without = job(base, tmp_path / "none", pairs=())
    plain = without.recipe.training.model_copy(update={"preference": None})
    before = without.model_copy(
        update={"recipe": without.recipe.model_copy(update={"training": plain}), "out_dir": str(tmp_path / "plain")}
    )
    few = job(base, tmp_path / "few", pairs=PAIRS[:1])
    reports = [lib.train_lora(one) for one in (without, before, few)]
    assert len({report.adapter_sha256 for report in reports}) == 1
    assert reports[2].notes == ("1 usable pairs, fewer than min_pairs: nothing was learned from them",)


def test_a_training_on_pairs_that_was_killed_in_either_stage_goes_on_to_the_same_adapter(lib, base, tmp_path):
    expected = lib.train_lora(job(base, tmp_path / "whole"))
    cut = job(base, tmp_path / "cut").model_copy(update={"checkpoint_steps": 2})
    for last in (3, 6, 8):

        def stop(progress: TrainingProgress, last: int = last) -> None:
            if progress.step == last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            lib.train_lora(cut, stop)
    report = lib.train_lora(cut)
    assert report.resumed_steps == 3 + 4
    assert report.adapter_sha256 == expected.adapter_sha256
    assert (report.losses, report.pair_losses) == (expected.losses, expected.pair_losses)


def test_a_warm_base_learns_pairs_as_a_cold_one_does(lib, base, tmp_path):
    bases = lib.Bases()
    reports = [lib.train_lora(job(base, tmp_path / name), bases=bases) for name in "abc"]
    assert len({report.adapter_sha256 for report in reports}) == 1


def test_weights_smoothing_and_the_anchor_change_what_is_learned(lib, base, tmp_path):
    plain = job(base, tmp_path / "plain")
    lib.train_lora(plain)
    heavy = tuple(p.model_copy(update={"weight": 5.0 if i else 1.0}) for i, p in enumerate(PAIRS))
    for name, other in {
        "weights": job(base, tmp_path / "weights", pairs=heavy),
        "smoothing": job(base, tmp_path / "smoothing", label_smoothing=0.2),
        "anchor": job(base, tmp_path / "anchor", nll_weight=1.0),
    }.items():
        assert lib.train_lora(other).status == "ok"
        assert distance(plain.adapter_dir, other.adapter_dir) > 1e-3, name


def test_pairs_that_are_the_same_tokens_or_too_long_are_left_out_and_counted(lib, base, tmp_path):
    odd = (pair(1, 1, rejected="2 "), pair(2, 2, rejected="so " * 400))
    report = lib.train_lora(job(base, tmp_path / "out", pairs=(*PAIRS, *odd)))
    assert (report.num_pairs, report.num_pairs_left_out) == (12, 2)


def test_loss_and_gradients_are_those_of_trls_own_trainer(lib, base, tmp_path):
    import torch
    from datasets import Dataset
    from peft import get_peft_model
    from trl import DPOConfig, DPOTrainer

    from evolve.training import trainers

    class TheirTrainer(DPOTrainer):
        def _prepare_dataset(self, dataset, *args):
            return dataset

    tokenizer = make_tokenizer(chat=False)
    tokenizer.pad_token = tokenizer.eos_token
    pairs, _ = tokenise_pairs(Renderer(tokenizer), tokenizer, PAIRS[:5], 512)

    def adapted() -> Any:
        torch.manual_seed(1)
        model = get_peft_model(lib.load_base(base, "float32"), lib._lora_config(LoraTraining(rank=4, alpha=8)))
        moved(model, 2)
        return model

    def moved(model: Any, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in sorted(model.named_parameters()):
                if ".default." in name:
                    weight += 0.05 * torch.randn(weight.shape, generator=generator)

    ours = adapted()
    examples, _ = trainers.with_reference(ours, trainers.pair_examples(pairs), 2)
    moved(ours, 3)
    batch = trainers.collate_pairs(examples)
    chosen, rejected, _ = trainers.answer_likelihoods(ours, batch)
    loss = trainers.dpo_losses(chosen - rejected - batch["reference"], 0.3).mean()
    loss.backward()

    prompts = [p.chosen.token_ids[: p.chosen.completion_start] for p in pairs]
    rows = [
        {
            "prompt_ids": list(start),
            "chosen_ids": list(p.chosen.token_ids[len(start) :]),
            "rejected_ids": list(p.rejected.token_ids[len(start) :]),
        }
        for start, p in zip(prompts, pairs, strict=True)
    ]
    trainer = TheirTrainer(
        model=adapted(),
        args=DPOConfig(
            output_dir=str(tmp_path),
            beta=0.3,
            use_cpu=True,
            bf16=False,
            report_to="none",
            max_length=None,
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    moved(trainer.model, 3)
    theirs = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    theirs.backward()
    assert loss.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert loss.item() != pytest.approx(math.log(2), abs=1e-3)
    expected = {n: p.grad for n, p in trainer.model.named_parameters() if ".default." in n}
    for name, weight in ours.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(weight.grad, expected[name], atol=1e-5, rtol=1e-3)
