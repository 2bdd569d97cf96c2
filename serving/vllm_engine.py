"""A local model behind `Engine`: vLLM with prompts by token ids, and LoRA adapters loaded while it runs."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from vllm import AsyncEngineArgs, CompletionOutput, RequestOutput, SamplingParams, TokensPrompt
from vllm.exceptions import VLLMError
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from mesh.engine import EngineError
from mesh.text import well_formed
from mesh.types import Choice, Completion, Member, Message, Part, Profile, Regex, Sampling, Score, Structure
from serving.adapters import Adapter, AdapterStore
from serving.admission import FORBIDDEN_LAYERS, BaseModelShape
from serving.config import VllmSpec
from serving.garbage import NUM_TOKENS, Fingerprint, broken, shifted
from serving.hosting import PLUGIN_NAME, EngineDied
from serving.member_http import HttpAddress
from serving.render import Renderer, RenderError
from serving.structure import StructureError, check_structure
from serving.thinking import cut_at
from serving.vllm_adapters import VllmAdapters

if TYPE_CHECKING:
    from serving.vllm_http import VllmHttp

# The CPU default of 128 tokens a block means that short prompts never share a prefix.
CPU_BLOCK_SIZE = 32
CPU_BATCHED_TOKENS = 2048


PROBE = (Message(role="user", parts=(Part(text="Count: one, two, three, four,"),)),)


class VllmEngine:
    """Implements `Engine` and `AdapterHost` over one vLLM engine in child processes of this one.

    What a model thinks before it answers is left out of `Completion.text`, and its tokens count: nothing of it is
    parsed, nor shown to peers. A model that never stopped thinking said nothing: the text is empty, the finish reason
    "length". Stop strings and closed choices are about the answer. Thoughts that are a turn of their own (channels)
    are not known as such.

    Not promised: equal samples for equal seeds in different company. Rows of a batch share matrix products, whose
    rounding depends on the batch; first-token probabilities agree within bfloat16 tolerance.
    """

    def __init__(self, spec: VllmSpec, model_dir: Path, adapters: AdapterStore) -> None:
        self.spec = spec
        self._model_dir = model_dir
        self._base = BaseModelShape.from_directory(model_dir)
        self._adapters = VllmAdapters(spec, self._base, adapters, self._running, self._fingerprint_of)
        self._fingerprint: Fingerprint = {}
        self._request_ids = itertools.count(1)
        self._llm: AsyncLLM | None = None
        self._probed: Renderer | None = None
        self._http: VllmHttp | None = None
        self._asleep = False

    async def start(self) -> None:
        """Starts the engine's processes; about a minute on a CPU.

        Raises:
            EngineError: LoRA on the CPU without the plugin that makes it right; a model that says nothing sensible.
        """
        if self._llm is None:
            if self.spec.adapters and current_platform.is_cpu():
                require_plugin()
            self._llm = AsyncLLM.from_engine_args(engine_args(self.spec, self._model_dir, self._base))
            # vLLM's own copy: a second tokenizer of 262,144 words would take another 500 MiB.
            tokenizer: Any = self._llm.get_tokenizer()
            self._probed = Renderer(tokenizer, extra_stop_ids=generation_stop_ids(self._model_dir))
            self._fingerprint = await self._fingerprint_of(None, {})
            if reason := broken(self._fingerprint):
                raise EngineError(f"engine {self.spec.name!r}: {reason}; check weights, dtype and quantization")

    async def shutdown(self) -> None:
        """Ends the engine's processes."""
        if self._http is not None:
            await self._http.close()
            self._http = None
        if self._llm is not None:
            self._llm.shutdown(timeout=5.0)
            self._llm = None
            self._adapters.clear()

    async def http_address(self, host: str = "127.0.0.1") -> HttpAddress | None:
        """As `HttpHost.http_address`; the first call takes seconds. Raises EngineDied if the engine is gone."""
        llm = self._running()
        if self._http is None:
            # Most engines are never asked by HTTP, and vLLM's server is a second of imports.
            from serving.vllm_http import VllmHttp

            self._http = VllmHttp(llm, self.spec, str(self._model_dir), self._adapters.held)
        return await self._http.address(host)

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling, *, rank: int = 0
    ) -> tuple[tuple[Completion, ...], int]:
        """As `RankedEngine.complete`. Greedy sampling draws once and repeats the answer.

        An answer in a given form comes without thoughts, which have none; what ends it is the form alone.
        """
        prompt = self._prompt(member, messages, self.spec.thinks and sampling.structure is None)
        is_greedy = sampling.temperature == 0.0
        facts = self._renderer.facts
        # A thought may well hold what would stop an answer.
        stops = () if facts.thinking else sampling.stop
        params = SamplingParams(
            n=1 if is_greedy else sampling.num_samples,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=min(sampling.max_tokens, self.spec.max_model_len - len(prompt)),
            stop=[*stops, *(facts.stop_strings if sampling.structure is None else ())],
            stop_token_ids=list(facts.stop_token_ids),
            seed=sampling.seed % 2**63,
            skip_special_tokens=sampling.structure is not None or not (facts.thinking and facts.thinking.is_special),
            structured_outputs=self._structured(sampling.structure),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        async with self._lora_of(member, rank) as lora:
            outputs = await self._sample(prompt, params, lora, rank)
        completions = tuple(self._completion(one, member, sampling) for one in outputs)
        return completions * (sampling.num_samples if is_greedy else 1), len(prompt)

    async def choose(
        self, member: Member, messages: Sequence[Message], labels: Sequence[str], *, rank: int = 0
    ) -> tuple[float, ...]:
        """As `RankedEngine.choose`: probabilities of the labels as the next token, a blank before them or not.

        Raises:
            EngineError: also when a label is no single token of this model.
        """
        ids_of = {label: self._renderer.label_ids(label) for label in labels}
        missing = [label for label, ids in ids_of.items() if not ids]
        if missing or not labels:
            raise EngineError(f"engine {self.spec.name!r}: expected labels of one token, got {missing or 'none'}")
        # A letter is no thought: the label stands where an answer does.
        prompt = self._prompt(member, messages, thinks=False)
        wanted = sorted({number for ids in ids_of.values() for number in ids})
        params = SamplingParams(
            max_tokens=1, temperature=0.0, logprob_token_ids=wanted, output_kind=RequestOutputKind.FINAL_ONLY
        )
        async with self._lora_of(member, rank) as lora:
            output = await self._generate(prompt, params, lora, rank)
        logprobs = output.outputs[0].logprobs
        if not logprobs:
            raise EngineError(f"engine {self.spec.name!r}: expected label log-probabilities, got none; try again")
        # Shifted by the best one before exponentiation: labels may all be very unlikely.
        best = max(logprobs[0][number].logprob for number in wanted)
        weights = [sum(math.exp(logprobs[0][number].logprob - best) for number in ids_of[label]) for label in labels]
        total = sum(weights)
        return tuple(weight / total for weight in weights)

    async def score(self, member: Member, messages: Sequence[Message], text: str, *, rank: int = 0) -> Score:
        """As `RankedEngine.score`: the text in the place of an answer, where the model's template writes one.

        One prefill of prompt and text, which takes nothing from the prefix cache. It holds the logits of every
        position at once: 4 bytes times window times vocabulary, twice (2 GiB for 1,024 tokens of 262,144 words).

        Raises:
            EngineError: also when prompt and text together do not fit, or the text has no tokens.
        """
        self._check_own(member)
        prompt, ids = self._render_with_answer(messages, text)
        if not ids:
            raise EngineError(f"engine {self.spec.name!r}: expected a text to score, got {text!r}, which has no tokens")
        self._check_length([*prompt, *ids])
        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            prompt_logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        async with self._lora_of(member, rank) as lora:
            found = (await self._generate([*prompt, *ids], params, lora, rank)).prompt_logprobs
        if found is None or len(found) != len(prompt) + len(ids):
            raise EngineError(f"engine {self.spec.name!r}: expected a log-probability for every token; try again")
        read = zip(ids, found[len(prompt) :], strict=True)
        log_prob = math.fsum(-math.inf if place is None else place[number].logprob for number, place in read)
        if not math.isfinite(log_prob):
            raise EngineError(f"engine {self.spec.name!r}: expected finite log-probabilities, got {log_prob}")
        return Score(log_prob=log_prob, num_tokens=len(ids), num_bytes=len(well_formed(text).encode()))

    async def count_tokens(self, member: Member, messages: Sequence[Message]) -> int:
        """As `Engine.count_tokens`; does not look at the window."""
        return len(self._render(messages, self.spec.thinks))

    async def profile(self, member: Member) -> Profile:
        """As `Engine.profile`."""
        facts = self._renderer.facts
        return Profile(
            engine=self.spec.name,
            model=self._model_dir.name,
            max_model_len=self.spec.max_model_len,
            has_chat_template=facts.has_template,
            accepts_system_role=facts.accepts_system,
            adds_bos=facts.adds_bos,
            token_exact=True,
            can_score=True,
            structures=("choice", "regex", "json"),
            needs_alternation=facts.needs_alternation,
            takes_tools=facts.takes_tools,
            thinking=facts.thinking and (facts.thinking.opening, facts.thinking.closing),
            stop_token_ids=facts.stop_token_ids,
        )

    async def load_adapter(self, adapter: Adapter) -> float:
        """As `AdapterHost.load_adapter`; more than `max_cpu_loras` take turns in memory."""
        return await self._adapters.load(adapter)

    async def retire_adapter(self, adapter_hash: str) -> None:
        """As `AdapterHost.retire_adapter`. Requests under way finish first."""
        await self._adapters.retire(adapter_hash)

    async def sleep(self) -> None:
        """As `HostedEngine.sleep`: weights go to the machine's memory, keys and values are forgotten."""
        if not _can_sleep(self.spec):
            raise EngineError(f"engine {self.spec.name!r} cannot sleep; set sleeps: true in its spec (GPUs only)")
        if not self._asleep:
            llm = self._running()
            self._asleep = True
            await llm.sleep(level=1, mode="wait")

    async def wake(self) -> None:
        """As `HostedEngine.wake`; model and adapters are probed before anybody else asks them."""
        if self._asleep and self._llm is not None:
            await self._llm.wake_up()
            self._asleep = False
            await self.probe()
            await self._adapters.probe()

    async def probe(self) -> None:
        """As `HostedEngine.probe`: one token, whose log-probabilities must be what they were at the start.

        vLLM's own health check sees neither an engine that hangs nor one that computes nonsense.
        """
        if reason := shifted(self._fingerprint, await self._fingerprint_of(None, self._fingerprint)):
            raise EngineDied(f"engine {self.spec.name!r} answers garbage: {reason}")

    async def _fingerprint_of(self, lora: LoRARequest | None, before: Fingerprint) -> Fingerprint:
        """Log-probabilities of the first token after `PROBE`: of those tokens, or (empty) of the likeliest ones."""
        wanted = sorted(before)
        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            logprobs=None if wanted else NUM_TOKENS,
            logprob_token_ids=wanted or None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        output = await self._generate(self._render(PROBE, thinks=True), params, lora, 0)
        logprobs = output.outputs[0].logprobs
        return {token: found.logprob for token, found in logprobs[0].items()} if logprobs else {}

    async def _sample(
        self, prompt: list[int], params: SamplingParams, lora: LoRARequest | None, rank: int
    ) -> list[CompletionOutput]:
        """All samples of a request, the first of them alone: it leaves the prompt in the prefix cache.

        Asked for together they would each compute the whole prompt, since none finds it there.
        """
        if params.n == 1:
            return list((await self._generate(prompt, params, lora, rank)).outputs)
        first, others = params.clone(), params.clone()
        first.n, others.n = 1, params.n - 1
        others.seed = None if params.seed is None else params.seed + 1
        outputs = list((await self._generate(prompt, first, lora, rank)).outputs)
        rest = (await self._generate(prompt, others, lora, rank)).outputs
        return [*outputs, *sorted(rest, key=lambda one: one.index)]

    async def _generate(
        self, prompt: list[int], params: SamplingParams, lora: LoRARequest | None, rank: int
    ) -> RequestOutput:
        stream = self._running().generate(
            TokensPrompt(prompt_token_ids=prompt),
            params,
            f"r{next(self._request_ids)}",
            lora_request=lora,
            priority=rank,
        )
        last: RequestOutput | None = None
        try:
            async for output in stream:
                last = output
        except EngineDeadError as error:
            raise EngineDied(f"engine {self.spec.name!r} died; see its log") from error
        except (VLLMError, ValueError) as error:
            raise EngineError(f"engine {self.spec.name!r} refused the request: {error}") from error
        if last is None:
            raise EngineError(f"engine {self.spec.name!r} gave no output; try again")
        return last

    def _structured(self, structure: Structure | None) -> StructuredOutputsParams | None:
        """vLLM's word for it. Checked here first: a form that makes no sense must not reach a running engine."""
        if structure is None:
            return None
        try:
            check_structure(structure)
        except StructureError as error:
            raise EngineError(f"engine {self.spec.name!r}: {error}") from error
        if isinstance(structure, Choice):
            return StructuredOutputsParams(choice=list(structure.choices))
        if isinstance(structure, Regex):
            return StructuredOutputsParams(regex=structure.pattern)
        return StructuredOutputsParams(json=structure.json_schema)

    def _completion(self, one: CompletionOutput, member: Member, sampling: Sampling) -> Completion:
        said = one.text if sampling.structure is not None else self._renderer.answer_in(one.text)
        text, is_stopped = cut_at(said or "", sampling.stop)
        is_whole = is_stopped or one.finish_reason != "length"
        return Completion(
            # Every character of a form counts.
            text=text if sampling.structure is not None else text.strip(),
            finish_reason="stop" if is_whole and said is not None else "length",
            output_tokens=len(one.token_ids),
            adapter=member.adapter,
        )

    def _prompt(self, member: Member, messages: Sequence[Message], thinks: bool) -> list[int]:
        self._check_own(member)
        prompt = self._render(messages, thinks)
        self._check_length(prompt)
        return prompt

    def _render(self, messages: Sequence[Message], thinks: bool) -> list[int]:
        """The prompt; of a model that can think, one that asks for an answer at once unless it `thinks`."""
        try:
            if thinks or not self._renderer.facts.thinking:
                return self._renderer.render(messages)
            return self._renderer.render_with_answer(messages, "")[0]
        except RenderError as error:
            raise EngineError(f"engine {self.spec.name!r}: {error}") from error

    def _render_with_answer(self, messages: Sequence[Message], text: str) -> tuple[list[int], list[int]]:
        """No ids for an empty text, even where the template puts a blank before an answer."""
        try:
            prompt, ids = self._renderer.render_with_answer(messages, text)
        except RenderError as error:
            raise EngineError(f"engine {self.spec.name!r}: {error}") from error
        return prompt, ids if text else []

    def _check_own(self, member: Member) -> None:
        if member.engine != self.spec.name:
            raise EngineError(f"engine {self.spec.name!r}: expected a member of its own, got one of {member.engine!r}")

    def _check_length(self, prompt: list[int]) -> None:
        """One token of the window is left for the answer."""
        if len(prompt) >= self.spec.max_model_len:
            raise EngineError(
                f"engine {self.spec.name!r}: expected a prompt shorter than {self.spec.max_model_len} tokens, "
                f"got {len(prompt)}; shorten it or raise max_model_len"
            )

    @property
    def _renderer(self) -> Renderer:
        if self._probed is None:
            raise EngineError(f"engine {self.spec.name!r} is not running; start it first")
        return self._probed

    def _running(self) -> AsyncLLM:
        if self._llm is None:
            raise EngineError(f"engine {self.spec.name!r} is not running; start it first")
        if self._llm.errored:
            raise EngineDied(f"engine {self.spec.name!r} died; see its log")
        if self._asleep:
            raise EngineError(f"engine {self.spec.name!r} sleeps while a specialist is trained; wake it first")
        return self._llm

    @asynccontextmanager
    async def _lora_of(self, member: Member, rank: int) -> AsyncIterator[LoRARequest | None]:
        """The member's adapter, in memory while the context lasts; None for the base model."""
        if member.adapter is None:
            yield None
        else:
            async with self._adapters.held(member.adapter, rank) as lora:
                yield lora


def engine_args(spec: VllmSpec, model_dir: Path, base: BaseModelShape) -> AsyncEngineArgs:
    """vLLM's settings for a spec."""
    layers = {name.rpartition(".")[2] for name in base.matrices if ".layers." in name}
    lora: dict[str, Any] = {}
    if spec.adapters:
        lora = {
            "enable_lora": True,
            "max_loras": spec.max_loras,
            "max_cpu_loras": spec.max_cpu_loras,
            "max_lora_rank": spec.max_lora_rank,
            # Without this, vLLM also wraps the output layer, whose adapter nobody may have.
            "lora_target_modules": sorted(layers - set(FORBIDDEN_LAYERS)),
        }
    return AsyncEngineArgs(
        model=str(model_dir),
        tokenizer=str(model_dir),
        load_format="safetensors",
        # The model's own sampling defaults would mix with ours.
        generation_config="vllm",
        trust_remote_code=False,
        dtype=weight_dtype(spec),
        max_model_len=spec.max_model_len,
        max_num_seqs=spec.max_num_seqs,
        # Always set: by default an engine claims nearly all memory, so a second one cannot start.
        kv_cache_memory_bytes=int(spec.kv_cache_gib * 2**30),
        block_size=CPU_BLOCK_SIZE if spec.num_gpus == 0 else None,
        enable_prefix_caching=True,
        # On a CPU a seeded request whose prompt is computed in two steps kills the engine: vLLM winds its random
        # generator back, which a CPU generator cannot do. So a prompt is computed whole or waits.
        enable_chunked_prefill=False if spec.num_gpus == 0 else None,
        max_num_batched_tokens=max(CPU_BATCHED_TOKENS, spec.max_model_len) if spec.num_gpus == 0 else None,
        enforce_eager=spec.enforce_eager,
        quantization=spec.quantization,
        enable_sleep_mode=_can_sleep(spec),
        scheduling_policy="priority",
        tensor_parallel_size=spec.tensor_parallel,
        disable_log_stats=True,
        seed=0,
        **lora,
    )


def _can_sleep(spec: VllmSpec) -> bool:
    return spec.sleeps and spec.num_gpus > 0


def weight_dtype(spec: VllmSpec) -> Literal["auto", "bfloat16", "float16", "float32"]:
    """The spec's number format; "auto" is float32 on a CPU without bfloat16 instructions.

    Such a CPU multiplies bfloat16 some 60 times slower than float32, and most checkpoints are stored in it.
    """
    # What a quantised model computes in, its files say.
    if spec.dtype != "auto" or spec.quantization is not None or not current_platform.is_cpu():
        return spec.dtype
    abilities = torch.cpu.get_capabilities()
    fast = bool(abilities.get("amx_bf16")) or bool(abilities.get("avx512_bf16"))
    return "bfloat16" if fast else "float32"


def require_plugin() -> None:
    """Raises EngineError unless vLLM will find the LoRA plugin: without it, CPU results of mixed batches are wrong."""
    if not any(point.name == PLUGIN_NAME for point in entry_points(group="vllm.general_plugins")):
        raise EngineError(
            f"expected the vLLM plugin {PLUGIN_NAME!r} to be installed, found none; run `pip install --no-deps -e .` "
            "in the repository (`make setup` does)"
        )


def generation_stop_ids(model_dir: Path) -> tuple[int, ...]:
    """End tokens that generation_config.json names; () without that file."""
    file = model_dir / "generation_config.json"
    if not file.is_file():
        return ()
    found = json.loads(file.read_text()).get("eos_token_id")
    listed = found if isinstance(found, list) else [found]
    return tuple(number for number in listed if isinstance(number, int))
