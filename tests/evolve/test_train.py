from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from safetensors.numpy import load_file

from evolve.learning.recipe_rows import TrainingRow
from evolve.learning.recipes import Recipe
from evolve.training.config import LoraTraining
from evolve.training.job import ParentAdapter, TrainingJob, TrainingProgress, finished_report
from evolve.training.merge import distance
from evolve.training.pack import TokenRow
from evolve.training.tokenise import tokenise
from mesh.types import Message, Part
from serving.adapters import AdapterStore, BaseModelShape
from serving.render import Renderer
from tests.evolve.tiny_tokenizer import make_tokenizer

# Importing TRL takes as long as all unit tests together, so it happens in fixtures: this file is collected with them.
pytestmark = pytest.mark.engine


def row(question: str, answer: str, weight: float = 1.0) -> TrainingRow:
    shown = Message(role="user", parts=(Part(text="Add up.\nWhat is 1 + 1?"),))
    said = Message(role="assistant", parts=(Part(text="2"),))
    asked = Message(role="user", parts=(Part(text=question, trusted=False),))
    return TrainingRow(
        task_id=question, task_type="sum", messages=(shown, said, asked), completion=answer, weight=weight
    )


ROWS = tuple(row(f"What is {a} + {b}?", str(a + b)) for a in range(3, 7) for b in range(2, 5))


def job(base: Path, out: Path, rows: tuple[TrainingRow, ...] = ROWS, **settings: object) -> TrainingJob:
    training = LoraTraining.model_validate({"rank": 4, "alpha": 8, "batch_size": 4, "num_threads": 1, **settings})
    recipe = Recipe(name="g0-tiny-own", base="tiny", family="tiny", mix=("own_correct",), training=training, seed=5)
    return TrainingJob(base_name="tiny-1", base_dir=str(base), recipe=recipe, rows=rows, seed=5, out_dir=str(out))


@pytest.fixture(scope="module")
def lib() -> ModuleType:
    import evolve.training.train

    return evolve.training.train


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.evolve.tiny_model import make_model

    return make_model(tmp_path_factory.mktemp("tiny"))


def test_training_lowers_the_loss_and_the_adapter_passes_admission(lib, base, tmp_path):
    seen: list[TrainingProgress] = []
    work = job(base, tmp_path / "out", num_epochs=6, learning_rate=0.02)
    report = lib.train_lora(work, seen.append)
    assert report.status == "ok", report.reason
    assert report.num_steps == 18
    assert sum(report.losses[-3:]) < 0.95 * sum(report.losses[:3])
    assert [p.step for p in seen] == list(range(1, 19))
    assert {p.num_steps for p in seen} == {18}
    assert report.num_rows == 12
    assert report.computed_tokens < 0.5 * report.trained_tokens
    shape = BaseModelShape.from_directory(base)
    adapter = AdapterStore(tmp_path / "store").admit(work.adapter_dir, shape, max_rank=8)
    assert adapter.rank == 4
    assert adapter.weights_sha256 == report.adapter_sha256
    assert len(adapter.target_modules) == 7


def test_the_adapter_names_the_base_model_and_no_path_of_this_machine(lib, base, tmp_path):
    work = job(base, tmp_path / "out", num_epochs=1)
    lib.train_lora(work)
    text = (work.adapter_dir / "adapter_config.json").read_text()
    assert json.loads(text)["base_model_name_or_path"] == "tiny-1"
    assert "/" not in text.replace("</", "")
    assert sorted(p.name for p in work.adapter_dir.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert [p.name for p in Path(work.out_dir).iterdir() if p.name.startswith(".")] == []


def test_the_same_job_gives_the_same_adapter_and_a_finished_job_is_recognised(lib, base, tmp_path):
    first, second = job(base, tmp_path / "a", num_epochs=1), job(base, tmp_path / "b", num_epochs=1)
    assert finished_report(first) is None
    report = lib.train_lora(first)
    assert lib.train_lora(second).adapter_sha256 == report.adapter_sha256
    assert finished_report(first) == report
    assert finished_report(first.model_copy(update={"seed": 6})) is None
    other = second.model_copy(update={"seed": 6, "out_dir": str(tmp_path / "c")})
    assert lib.train_lora(other).adapter_sha256 != report.adapter_sha256


def test_rows_learned_together_or_alone_give_the_same_adapter(lib, base, tmp_path):
    together = job(base, tmp_path / "together", num_epochs=1)
    alone = job(base, tmp_path / "alone", num_epochs=1, max_packed_tokens=1)
    one, other = lib.train_lora(together), lib.train_lora(alone)
    assert one.losses == pytest.approx(other.losses, abs=2e-4)
    assert other.computed_tokens == other.trained_tokens == one.trained_tokens
    left = load_file(together.adapter_dir / "adapter_model.safetensors")
    right = load_file(alone.adapter_dir / "adapter_model.safetensors")
    # Adam divides by the gradient's size, so where it is all but zero rounding alone decides the first steps' sign.
    close = [np.isclose(left[name], right[name], atol=2e-4).mean() for name in left]
    assert min(close) > 0.99


def test_a_packed_pass_gives_the_logits_that_each_row_gives_alone(lib, base):
    import torch

    tokenizer = make_tokenizer(chat=False)
    rows, _ = tokenise(Renderer(tokenizer), tokenizer, ROWS, 512)
    model = lib.load_base(base, "float32")
    batch = lib.collate([r._asdict() for r in rows])
    with torch.no_grad():
        packed = model(
            input_ids=batch["input_ids"],
            position_ids=batch["position_ids"],
            attention_mask=batch["attention_mask"],
            logits_to_keep=batch["label_positions"],
        ).logits[0]
        for r in rows:
            num = len(r.token_ids) - r.completion_start
            alone = model(input_ids=torch.tensor([r.token_ids])).logits[0, r.completion_start - 1 : -1]
            torch.testing.assert_close(packed[:num], alone, atol=1e-5, rtol=1e-5)
            packed = packed[num:]
    assert len(packed) == 0


def test_a_loss_that_is_not_finite_quarantines_the_candidate(lib, base, tmp_path, monkeypatch):
    whole = lib.PackedSFTTrainer.compute_loss

    def poisoned(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self.state.global_step == 1:
            inputs["label_weights"] = inputs["label_weights"] * math.nan
        return whole(self, model, inputs, return_outputs, num_items_in_batch)

    monkeypatch.setattr(lib.PackedSFTTrainer, "compute_loss", poisoned)
    work = job(base, tmp_path / "out")
    report = lib.train_lora(work)
    assert report.status == "quarantined"
    assert report.reason == "loss is nan at step 1"
    assert report.num_steps == 1
    assert not work.adapter_dir.exists()
    assert finished_report(work) == report


def test_a_job_without_a_usable_row_is_quarantined(lib, base, tmp_path):
    work = job(base, tmp_path / "out", rows=(row("long " * 200, "1"),), max_length=64)
    report = lib.train_lora(work)
    assert (report.status, report.num_steps) == ("quarantined", 0)
    assert "1 left out" in report.reason


def test_steps_end_at_max_steps(lib, base, tmp_path):
    assert lib.train_lora(job(base, tmp_path / "out", num_epochs=5, max_steps=2)).num_steps == 2


def test_a_short_window_or_another_kind_of_layer_keeps_rows_apart(lib, base):
    model = lib.load_base(base)
    assert lib.can_share_beginnings(model, 512)
    model.config.layer_types = ["sliding_attention", "full_attention"]
    model.config.sliding_window = 64
    assert lib.can_share_beginnings(model, 64)
    assert not lib.can_share_beginnings(model, 65)
    model.config.layer_types = ["linear_attention", "full_attention"]
    assert not lib.can_share_beginnings(model, 8)


def test_a_prompt_that_ends_several_rows_is_learned_for_each(lib):
    batch = lib.collate([TokenRow((1, 2, 3), 2)._asdict(), TokenRow((1, 2, 4), 2, 0.5)._asdict()])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 2]]
    assert batch["label_positions"].tolist() == [1, 1]
    assert batch["labels"].tolist() == [3, 4]
    assert batch["label_weights"].tolist() == [1.0, 0.5]
    assert batch["attention_mask"][0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]]


def test_a_warm_base_trains_the_very_adapters_that_a_cold_one_does(lib, base, tmp_path):
    jobs = [job(base, tmp_path / name, num_epochs=1, **extra) for name, extra in (("a", {}), ("b", {"rank": 2}))]
    cold = [lib.train_lora(one).adapter_sha256 for one in jobs]
    bases = lib.Bases()
    again = [one.model_copy(update={"out_dir": f"{one.out_dir}-warm"}) for one in (*jobs, jobs[0])]
    warm = [lib.train_lora(one, bases=bases) for one in again]
    assert [report.adapter_sha256 for report in warm] == [*cold, cold[0]]
    model = bases.get(str(base), "auto").model
    assert not any("lora" in name for name, _ in model.named_parameters())
    assert "forward" not in model.__dict__
    assert not hasattr(model, "peft_config")
    assert max(report.load_seconds for report in warm[1:]) < warm[0].load_seconds + 5


def test_a_killed_training_goes_on_from_its_checkpoint_to_the_same_adapter(lib, base, tmp_path, monkeypatch):
    whole = job(base, tmp_path / "whole", num_epochs=4)
    expected = lib.train_lora(whole)
    assert expected.num_steps == 12
    cut = whole.model_copy(update={"out_dir": str(tmp_path / "cut"), "checkpoint_steps": 2})

    class Killed(BaseException):
        pass

    def until(last: int):
        def hear(progress: TrainingProgress) -> None:
            if progress.step == last:
                raise Killed

        return hear

    for last in (5, 8):  # in the middle of an epoch, after a first resumption
        with pytest.raises(Killed):
            lib.train_lora(cut, until(last))
    report = lib.train_lora(cut)
    assert report.resumed_steps == 6
    assert (report.adapter_sha256, report.losses) == (expected.adapter_sha256, expected.losses)
    assert (report.trained_tokens, report.flops) == (expected.trained_tokens, expected.flops)
    assert sorted(p.name for p in Path(cut.out_dir).iterdir()) == ["adapter", "training_report.json"]
    assert not [p for p in Path(cut.out_dir).rglob("*") if p.suffix in (".pt", ".pth", ".bin", ".pkl")]


def test_a_damaged_checkpoint_is_not_used_and_the_report_says_so(lib, base, tmp_path):
    expected = lib.train_lora(job(base, tmp_path / "whole", num_epochs=2))
    cut = job(base, tmp_path / "cut", num_epochs=2).model_copy(update={"checkpoint_steps": 1})

    def stop(progress: TrainingProgress) -> None:
        if progress.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lib.train_lora(cut, stop)
    (state,) = Path(cut.out_dir).glob("checkpoint-rows-*/state.safetensors")
    state.write_bytes(state.read_bytes()[:-1] + b"?")
    report = lib.train_lora(cut)
    assert report.adapter_sha256 == expected.adapter_sha256
    assert report.resumed_steps == 0
    assert "checkpoint-rows-000003 is damaged and was not used: state.safetensors: expected sha256" in report.notes[0]


def test_a_parent_is_trained_further_with_its_own_rank(lib, base, tmp_path):
    first = job(base, tmp_path / "first", num_epochs=3, learning_rate=0.02)
    before = lib.train_lora(first)
    start = ParentAdapter(adapter="a", directory=str(first.adapter_dir))
    again = job(base, tmp_path / "again", num_epochs=1, learning_rate=0.02, rank=16).model_copy(
        update={"parents": (start,)}
    )
    after = lib.train_lora(again)
    assert after.status == "ok", after.reason
    assert after.losses[0] < before.losses[0]
    assert after.losses[0] == pytest.approx(before.losses[-1], rel=0.3)
    shape = BaseModelShape.from_directory(base)
    assert AdapterStore(tmp_path / "store").admit(again.adapter_dir, shape, max_rank=8).rank == 4
    assert distance(first.adapter_dir, again.adapter_dir) > 0


def test_a_parent_that_is_damaged_quarantines_the_candidate(lib, base, tmp_path):
    (tmp_path / "odd").mkdir()
    work = job(base, tmp_path / "out").model_copy(
        update={"parents": (ParentAdapter(adapter="a", directory=str(tmp_path / "odd")),)}
    )
    bases = lib.Bases()
    report = lib.train_lora(work, bases=bases)
    assert report.status == "quarantined"
    assert "expected a plain LoRA adapter: adapter_config.json" in report.reason
    assert lib.train_lora(job(base, tmp_path / "fine", num_epochs=1), bases=bases).status == "ok"


def test_too_little_memory_quarantines_the_candidate_and_the_base_is_loaded_anew(lib, base, tmp_path, monkeypatch):
    def hungry(self, *args, **kwargs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9999999999 bytes")

    bases = lib.Bases()
    held = bases.get(str(base), "auto").model
    with monkeypatch.context() as patch:
        patch.setattr(lib.PackedSFTTrainer, "compute_loss", hungry)
        report = lib.train_lora(job(base, tmp_path / "out"), bases=bases)
    assert report.status == "quarantined"
    assert "out of memory (DefaultCPUAllocator: can't allocate memory" in report.reason
    assert "training.max_packed_tokens (4096)" in report.reason
    assert bases.get(str(base), "auto").model is not held


def test_the_estimate_of_operations_is_what_torch_counts(lib, base, tmp_path):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    work = job(base, tmp_path / "out", num_epochs=1, max_packed_tokens=1)
    # The CPU's fused attention is not counted; written out as products it is.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        report = lib.train_lora(work)
    # Not estimated: the first layer's inputs need no gradient, 1/4 of two layers' frozen backward here, less in others.
    assert report.flops == pytest.approx(counter.get_total_flops(), rel=0.1)
