"""Exported rows in the hands of TRL itself: loaded with `datasets`, and learned from for one step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_dataset
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from mesh.config import CouncilConfig
from serving.export_formats import Format, export_traces
from tests.evolve.tiny_model import make_model
from tests.serving.test_export import real_traces

ONE_STEP: dict[str, Any] = {"max_steps": 1, "report_to": [], "use_cpu": True, "per_device_train_batch_size": 2}


def rows(tmp_path: Path, kind: Format) -> Dataset:
    out = tmp_path / "rows.jsonl"
    export_traces(real_traces(CouncilConfig(), 6), {}, out, kind)
    found = load_dataset("json", data_files=str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(found, Dataset)
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_model(tmp_path_factory.mktemp("model"), chat=True))


def test_sft_trainer_learns_from_the_completions_alone(tmp_path: Path, model: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    args = SFTConfig(output_dir=str(tmp_path / "out"), **ONE_STEP)
    trainer = SFTTrainer(model=model, args=args, train_dataset=rows(tmp_path, "trl"), processing_class=tokenizer)
    assert trainer.train().training_loss > 0.0
    for row in trainer.train_dataset:
        said = row["completion"][0]["content"]
        learned = [token for token in row["labels"] if token != -100]
        assert said in tokenizer.decode(learned)
        assert "What is" not in tokenizer.decode(learned)


def test_dpo_trainer_prefers_the_winner_to_what_dissented(tmp_path: Path, model: str) -> None:
    args = DPOConfig(output_dir=str(tmp_path / "out"), **ONE_STEP)
    data = rows(tmp_path, "trl-preference")
    tokenizer = AutoTokenizer.from_pretrained(model)
    trainer = DPOTrainer(model=model, args=args, train_dataset=data, processing_class=tokenizer)
    assert trainer.train().training_loss == pytest.approx(0.6931, abs=1e-3)  # ln 2: nothing is preferred yet
    assert len(trainer.train_dataset) == len(data) > 0
