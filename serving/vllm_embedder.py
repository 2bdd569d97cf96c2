"""Any embedding model behind `memory.embed.Embedder`, run by vLLM's pooling runner."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from vllm import LLM, TokensPrompt
from vllm.platforms import current_platform
from vllm.v1.engine.exceptions import EngineDeadError

from memory.embed import MAX_CHARS, EmbedderError, Vectors
from memory.types import content_hash
from serving.config import VllmSpec
from serving.memory_host import EmbedderDied
from serving.vllm_engine import CPU_BATCHED_TOKENS, weight_dtype
from serving.weights import sha256_of

# What an embedding model computes lies in these; a README or a licence may change without another vector.
_CONTENT = (".json", ".safetensors", ".txt", ".model")


class VllmEmbedder:
    """Implements `Embedder` over one vLLM engine in child processes of this one; threads may share it.

    The vector of a text is what the model's own pooling makes of its first tokens, scaled to length 1. `id` names the
    content of the model's files, the number of tokens read and the number format; the directory's name is not in it.

    Not promised: equal bits. The rounding of a row depends on what it is batched with and on the machine, so rows of
    one text agree within the number format's tolerance (float32: 1e-5 in every component), and "a row depends on its
    own text alone" holds within that tolerance. Memory may mix such rows: their cosines differ by as little.
    """

    def __init__(self, spec: VllmSpec, model_dir: Path) -> None:
        """Starts the engine at once, a minute on a CPU; the environment is `hosting.engine_environment(spec)`.

        Of `spec`, what is about adapters, thinking and roles has no meaning here.

        Raises:
            EmbedderError: the directory holds no model that vLLM can embed with, or the window is beyond the model's.
        """
        self._name = spec.name
        self._mutex = threading.Lock()
        self._llm: LLM | None = _started(spec, model_dir)
        model = self._llm.llm_engine.model_config
        self._max_tokens = int(model.max_model_len)
        self.dim = int(model.embedding_size)
        number_format = str(model.dtype).removeprefix("torch.")
        self.id = f"vllm-{model_content(model_dir)[:16]}-{self._max_tokens}-{number_format}"

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder.embed`, and the class for what is not promised.

        Raises:
            EmbedderDied: the engine is gone. EmbedderError: it was closed.
        """
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        with self._mutex:
            if self._llm is None:
                raise EmbedderError(f"embedder {self._name!r}: expected a running engine, got a closed one; start anew")
            try:
                outputs = self._llm.embed([self._prompt(self._llm, text) for text in texts], use_tqdm=False)
            except EngineDeadError as error:
                raise EmbedderDied(f"embedder {self._name!r}: its engine died ({error}); start it anew") from error
        rows = np.array([output.outputs.embedding for output in outputs], dtype=np.float32)
        # A model in half precision has its lengths right to three digits only.
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def close(self) -> None:
        """Ends the engine's processes; a second call does nothing."""
        with self._mutex:
            if self._llm is not None:
                self._llm.llm_engine.engine_core.shutdown(timeout=5.0)
                self._llm = None

    def __enter__(self) -> VllmEmbedder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prompt(self, llm: LLM, text: str) -> TokensPrompt:
        """The text's first tokens; vLLM itself would refuse a text that is longer than the window."""
        tokenizer = llm.get_tokenizer()
        readable = text[:MAX_CHARS].encode("utf-8", "replace").decode()
        ids = tokenizer.encode(readable, truncation=True, max_length=self._max_tokens)
        # Tokenizers that add no marks of their own have nothing to say about an empty text.
        return TokensPrompt(prompt_token_ids=ids or tokenizer.encode(" ") or [0])


def _started(spec: VllmSpec, model_dir: Path) -> LLM:
    is_cpu = current_platform.is_cpu()
    try:
        return LLM(
            model=str(model_dir),
            tokenizer=str(model_dir),
            runner="pooling",
            load_format="safetensors",
            trust_remote_code=False,
            dtype=weight_dtype(spec),
            max_model_len=spec.max_model_len,
            max_num_seqs=spec.max_num_seqs,
            # Always set: by default an engine claims nearly all memory.
            kv_cache_memory_bytes=int(spec.kv_cache_gib * 2**30),
            max_num_batched_tokens=max(CPU_BATCHED_TOKENS, spec.max_model_len) if is_cpu else None,
            enforce_eager=spec.enforce_eager,
            tensor_parallel_size=spec.tensor_parallel,
            disable_log_stats=True,
            seed=0,
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise EmbedderError(
            f"embedder {spec.name!r}: expected a model in {model_dir} that vLLM can embed {spec.max_model_len} tokens "
            f"with, got {type(error).__name__}: {error}"
        ) from error


def model_content(model_dir: Path) -> str:
    """sha256 over the names and contents of the model's files, folders included."""
    files = sorted(path for path in model_dir.rglob("*") if path.is_file() and path.suffix in _CONTENT)
    return content_hash({path.relative_to(model_dir).as_posix(): sha256_of(path) for path in files})
