"""What a configuration may say about memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from memory.config import MemoryConfig
from memory.types import Level, Namespace


def test_every_field_has_a_sentence() -> None:
    assert all(field.description for field in MemoryConfig.model_fields.values())


@pytest.mark.parametrize(
    "wrong",
    [
        {"embeder": "minilm"},
        {"embedder": "other"},
        {"recall_limit": -1},
        {"recall_limit": 17},
        {"min_similarity": float("nan")},
        {"similar": "sometimes"},
        {"shown_from": "believed"},
        {"holdout_share": 0.95},
        {"half_life_days": 0.0},
        {"max_per_source": 0},
        {"recall_for": ("gate",)},
        {"trust": {"trusted_verifiers": ("",)}},
        {"trust": {"trust_quantile": 1.0}},
    ],
    ids=str,
)
def test_wrong_values_are_refused(wrong) -> None:
    with pytest.raises(ValidationError):
        MemoryConfig.model_validate(wrong)


def test_only_what_is_verified_is_shown_unless_somebody_says_otherwise() -> None:
    assert MemoryConfig().shown_from is Level.VERIFIED


def test_a_run_reads_its_own_namespace_first_and_others_only_where_told() -> None:
    assert MemoryConfig().scope("r7") == ("default/default/r7",)
    config = MemoryConfig(team="acme", project="tax", reads=("acme/tax/*",))
    assert config.namespace("r7") == Namespace(team="acme", project="tax", run="r7")
    assert config.scope("r7") == ("acme/tax/r7", "acme/tax/*")


@pytest.mark.parametrize("name", ["", "*", "a/b", " a", "a*"])
def test_names_that_would_read_as_patterns_are_no_namespaces(name) -> None:
    with pytest.raises(ValidationError):
        Namespace(team=name)


def test_a_namespace_reads_back_from_its_text() -> None:
    assert Namespace.parse("a/b/c") == Namespace(team="a", project="b", run="c")
    with pytest.raises(ValueError, match="team/project/run"):
        Namespace.parse("a/b")


def test_config_and_ledger_import_nothing_heavy() -> None:
    heavy = "{'numpy', 'faiss', 'torch', 'apsw', 'tokenizers'}"
    script = f"import sys, memory, memory.config, memory.ledger; sys.exit(str({heavy} & set(sys.modules) or ''))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
