"""What a configuration may say about memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from memory.config import MemoryConfig


def test_every_field_has_a_sentence() -> None:
    assert all(field.description for field in MemoryConfig.model_fields.values())


@pytest.mark.parametrize(
    "wrong", [{"embeder": "minilm"}, {"embedder": "other"}, {"recall_limit": -1}, {"min_similarity": float("nan")}]
)
def test_wrong_values_are_refused(wrong) -> None:
    with pytest.raises(ValidationError):
        MemoryConfig.model_validate(wrong)


def test_config_and_ledger_import_nothing_heavy() -> None:
    heavy = "{'numpy', 'faiss', 'torch', 'apsw', 'tokenizers'}"
    script = f"import sys, memory, memory.config, memory.ledger; sys.exit(str({heavy} & set(sys.modules) or ''))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
