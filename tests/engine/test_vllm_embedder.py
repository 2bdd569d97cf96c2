"""The vLLM embedder on the packaged MiniLM, beside our own numpy version of the same model (a minute to start)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from memory.embed import EmbedderError, MiniLmEmbedder, checked_vectors
from serving.config import DirectoryModel, VllmSpec
from serving.hosting import engine_environment
from tests.contract.embedder_contract import CONTRACT, QUESTION, Check

pytestmark = pytest.mark.engine

MODEL = MiniLmEmbedder().directory
SPEC = VllmSpec(
    name="minilm",
    family="bert",
    model=DirectoryModel(path=MODEL),
    max_model_len=256,
    kv_cache_gib=0.1,
    dtype="float32",
    adapters=False,
)
TOLERANCE = 1e-5
LONG = " ".join(f"word{number} and" for number in range(400))


@pytest.fixture(scope="module")
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in engine_environment(SPEC).items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def embedder(environment: None) -> Iterator[object]:
    """Started once; afterwards not one of its processes is left."""
    from serving.vllm_embedder import VllmEmbedder

    before = set(psutil.Process().children(recursive=True))
    with VllmEmbedder(SPEC, MODEL) as running:
        engine = [
            child
            for child in set(psutil.Process().children(recursive=True)) - before
            if "resource_tracker" not in " ".join(child.cmdline())
        ]
        assert engine
        yield running
    _, left = psutil.wait_procs(engine, timeout=10)
    assert left == []
    with pytest.raises(EmbedderError, match="got a closed one"):
        running.embed([QUESTION])


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_the_contract_holds_up_to_rounding(embedder, check: Check) -> None:
    check(embedder, TOLERANCE)


@pytest.mark.parametrize("text", [QUESTION, "数学の問題", "[SEP] tokens [CLS] in the text", LONG, ""])
def test_vectors_are_those_of_the_packaged_embedder(embedder, text: str) -> None:
    ours = MiniLmEmbedder().embed([text])[0]
    assert checked_vectors(embedder, [text])[0] @ ours >= 0.9999


def test_the_id_names_content_window_and_number_format_and_not_the_place(embedder, tmp_path: Path) -> None:
    from serving.vllm_embedder import model_content

    assert embedder.id.endswith("-256-float32")
    copy = tmp_path / "elsewhere"
    shutil.copytree(MODEL, copy)
    (copy / "README.md").write_text("another readme")
    assert model_content(copy)[:16] in embedder.id
    pooling = copy / "1_Pooling" / "config.json"
    pooling.write_text(
        pooling.read_text().replace('"pooling_mode_mean_tokens": true', '"pooling_mode_mean_tokens":false')
    )
    assert model_content(copy)[:16] not in embedder.id


def test_a_directory_without_a_model_and_a_window_beyond_the_models_are_named(environment, tmp_path: Path) -> None:
    from serving.vllm_embedder import VllmEmbedder

    with pytest.raises(EmbedderError, match="expected a model in"):
        VllmEmbedder(SPEC, tmp_path)
    with pytest.raises(EmbedderError, match="embed 4096 tokens"):
        VllmEmbedder(SPEC.model_copy(update={"max_model_len": 4096}), MODEL)


def test_a_row_is_the_same_up_to_rounding_in_a_full_batch(embedder) -> None:
    texts = [f"{number} apples and {number * 7 % 13} pears: how many fruits?" for number in range(200)]
    together = embedder.embed(texts)
    alone = np.concatenate([embedder.embed([text]) for text in texts[:20]])
    assert np.abs(together[:20] - alone).max() < TOLERANCE
