"""Any OpenAI-compatible server as an engine: prompts go as text, and what the server does not say is estimated."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from mesh.engine import EngineError
from mesh.types import Choice, Completion, Member, Message, Profile, Sampling, Score
from serving.adapters import Adapter
from serving.config import RemoteSpec
from serving.remote_client import RemoteClient, RequestRefused
from serving.remote_wire import Reply, request_of, unwrapped
from serving.sanitise import sanitise_parts
from serving.structure import StructureError, check_structure, problem_with
from serving.thinking import Thinking, cut_at, thinking_in
from serving.turns import as_turns

BYTES_PER_TOKEN = 4
TOKENS_PER_TURN = 4
MAX_TOP_LOGPROBS = 20
"""What OpenAI and vLLM allow at most; labels beyond the likeliest 20 tokens get no weight."""

_PROBE = Message.model_validate(
    {"role": "user", "parts": [{"text": "Choose one.\nA: yes\nB: no\nReply with the letter alone."}]}
)
_UNLIKELY = Choice(choices=("mrzk 70",))
"""No model says this to `_PROBE` unless the server makes it."""


class RemoteEngine:
    """Implements `Engine` over `/chat/completions` (or `/completions`, where prompts have no turns).

    Not promised: exact token counts (`count_tokens` divides UTF-8 bytes by four and adds four per turn), that the
    server honours seeds, and that every control marker of the server's template is known here (`token_exact` is False).
    What a model thinks is left out of `Completion.text`, as in `VllmEngine`, where the server has not done so already;
    its marks are known by their shape. Adapters cannot be loaded. A prompt whose estimate exceeds
    `spec.max_model_len` is refused here, because some servers cut it silently.
    """

    def __init__(self, spec: RemoteSpec, *, backoff_s: float = 0.5) -> None:
        """Reads the key from `spec.api_key_env`. Raises EngineError if the variable is unset or holds no usable key."""
        self.spec = spec
        self._client = RemoteClient(spec, backoff_s=backoff_s)
        self._gives_logprobs: bool | None = None
        self._keeps_forms: bool | None = None
        self._thinking: Thinking | None = None

    async def start(self) -> None:
        """Asks the server one small question. Raises EngineError if it does not answer."""
        await self._probe()

    async def shutdown(self) -> None:
        """Closes the connections; a later call opens new ones."""
        await self._client.close()

    async def probe(self) -> None:
        """Asks nothing: what is wrong with somebody else's server, a new process here does not mend."""

    async def sleep(self) -> None:
        """Always raises EngineError: the server's GPUs are not ours."""
        raise EngineError(f"engine {self.spec.name!r} is remote and cannot sleep; name engines with `sleeps: true`")

    async def wake(self) -> None:
        """Does nothing: it never sleeps."""

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling, *, rank: int = 0
    ) -> tuple[tuple[Completion, ...], int]:
        """As `RankedEngine.complete`; `rank` orders what waits here, the server is not told.

        A server that ignores `n` is asked again with further seeds until there are enough. Raises EngineError also
        when the form of the answer is given and the server does not keep it.
        """
        estimate = self._admit(member, messages)
        await self._check_form(sampling)
        found: list[Completion] = []
        prompt_tokens = 0
        while len(found) < sampling.num_samples:
            missing = sampling.num_samples - len(found)
            asked = sampling.model_copy(update={"num_samples": missing, "seed": sampling.seed + len(found)})
            if self._thinking is not None:
                # A thought may well hold what would stop an answer.
                asked = asked.model_copy(update={"stop": ()})
            reply = await self._ask(messages, asked, rank=rank)
            completions = reply.completions(sampling.max_tokens)[:missing]
            found.extend(self._in_form(self._without_thoughts(completion, sampling), sampling)
                         for completion in completions)  # fmt: skip
            prompt_tokens = prompt_tokens or reply.prompt_tokens or estimate
        return tuple(found), prompt_tokens

    async def choose(
        self, member: Member, messages: Sequence[Message], labels: Sequence[str], *, rank: int = 0
    ) -> tuple[float, ...]:
        """As `RankedEngine.choose`, from the log-probabilities of the first token.

        A server that gives none is read by its word: the label it names gets all the weight. Raises EngineError if it
        names none of `labels`.
        """
        self._admit(member, messages)
        if len(labels) == 1:
            return (1.0,)
        reply = await self._ask_for_label(messages, rank)
        weights = [sum(math.exp(logprob) for token, logprob in reply.first_token if _label(token) == label)
                   for label in labels]  # fmt: skip
        if sum(weights) > 0:
            return tuple(weight / sum(weights) for weight in weights)
        named = _label(reply.texts[0])
        if named not in labels:
            raise EngineError(
                f"engine {self.spec.name!r}: expected one of the labels {', '.join(labels)}, got "
                f"{reply.texts[0][:40]!r} and no log-probabilities for them; use a server that returns logprobs, or "
                "keep this member out of votes"
            )
        return tuple(float(label == named) for label in labels)

    async def score(self, member: Member, messages: Sequence[Message], text: str, *, rank: int = 0) -> Score:
        """Always raises EngineError: servers do not tell how likely a given text is."""
        self._check(member)
        raise EngineError(
            f"engine {self.spec.name!r} is remote and cannot score a given text (can_score is False); "
            "ask a vllm engine, or leave this member out"
        )

    async def count_tokens(self, member: Member, messages: Sequence[Message]) -> int:
        """An estimate: UTF-8 bytes divided by four, rounded up, and four tokens for every turn."""
        self._check(member)
        return _estimate(messages)

    async def profile(self, member: Member) -> Profile:
        """`can_choose`, `thinking` and `structures` are probed once.

        The template is not: a system role is reported as not accepted and alternation as needed, which is how turns
        are sent, and tools as not taken.
        """
        self._check(member)
        if self._gives_logprobs is None:
            await self._probe()
        keeps_forms = await self._can_keep_forms()
        return Profile(
            engine=self.spec.name,
            model=self.spec.model,
            max_model_len=self.spec.max_model_len,
            has_chat_template=self.spec.api == "chat",
            accepts_system_role=False,
            adds_bos=False,
            token_exact=False,
            can_choose=bool(self._gives_logprobs),
            structures=("choice", "regex", "json") if keeps_forms else (),
            needs_alternation=True,
            thinking=self._thinking and (self._thinking.opening, self._thinking.closing),
        )

    async def load_adapter(self, adapter: Adapter) -> float:
        """Always raises EngineError: there is no portable way to load an adapter into somebody else's server."""
        raise EngineError(
            f"engine {self.spec.name!r} is remote and cannot load adapter {adapter.hash[:12]}; {_NO_ADAPTERS}"
        )

    async def retire_adapter(self, adapter_hash: str) -> None:
        """Always raises EngineError, as `load_adapter` does."""
        raise EngineError(
            f"engine {self.spec.name!r} is remote and holds no adapter {adapter_hash[:12]}; {_NO_ADAPTERS}"
        )

    async def _probe(self) -> None:
        reply = await self._ask_for_label([_PROBE], 0)
        self._gives_logprobs = bool(reply.first_token)
        self._thinking = thinking_in(reply.texts[0])

    def _without_thoughts(self, completion: Completion, sampling: Sampling) -> Completion:
        thinking = thinking_in(completion.text)
        said = completion.text if thinking is None else thinking.answer(completion.text)
        if said is None:
            return completion.model_copy(update={"text": "", "finish_reason": "length"})
        text, is_stopped = cut_at(said, sampling.stop)
        reason = "stop" if is_stopped else completion.finish_reason
        return completion.model_copy(update={"text": text, "finish_reason": reason})

    async def _check_form(self, sampling: Sampling) -> None:
        """Raises EngineError for a form that makes no sense, or a server that keeps none."""
        if sampling.structure is None:
            return
        try:
            check_structure(sampling.structure)
        except StructureError as error:
            raise EngineError(f"engine {self.spec.name!r}: {error}") from error
        if not await self._can_keep_forms():
            raise EngineError(
                f"engine {self.spec.name!r}: expected a server that keeps response_format json_schema, and this one "
                "ignored or refused it; use another server or engine, or ask for free text"
            )

    async def _can_keep_forms(self) -> bool:
        """Whether the server says, made to, what it never would of itself; asked once."""
        if self._keeps_forms is None:
            sampling = Sampling(temperature=0.0, max_tokens=16, structure=_UNLIKELY)
            try:
                reply = await self._ask([_PROBE], sampling)
            except RequestRefused:
                self._keeps_forms = False
            else:
                self._keeps_forms = unwrapped(_UNLIKELY, reply.texts[0].strip()) in _UNLIKELY.choices
        return self._keeps_forms

    def _in_form(self, completion: Completion, sampling: Sampling) -> Completion:
        """What a server promises is looked at: some keep the forms they know and ignore the others."""
        if sampling.structure is None or completion.finish_reason == "length":
            return completion
        text = unwrapped(sampling.structure, completion.text)
        try:
            problem = problem_with(sampling.structure, text)
        except StructureError as error:
            problem = str(error)
        if problem:
            raise EngineError(f"engine {self.spec.name!r}: the server left the form of the answer: {problem}")
        return completion.model_copy(update={"text": text})

    async def _ask_for_label(self, messages: Sequence[Message], rank: int) -> Reply:
        sampling = Sampling(temperature=0.0, max_tokens=1)
        if self._gives_logprobs is not False:
            try:
                return await self._ask(messages, sampling, top_logprobs=MAX_TOP_LOGPROBS, rank=rank)
            except RequestRefused:
                # Some servers answer 400 to the very word "logprobs"; the same request without it decides.
                self._gives_logprobs = False
        return await self._ask(messages, sampling.model_copy(update={"max_tokens": 4}), rank=rank)

    async def _ask(
        self, messages: Sequence[Message], sampling: Sampling, *, top_logprobs: int = 0, rank: int = 0
    ) -> Reply:
        # Nothing is known of the server's template: turns are sent in the form that every template takes.
        turns = as_turns(messages, accepts_system=False, needs_alternation=True)
        texts = [(role, sanitise_parts(parts)) for role, parts in turns]
        path, body = request_of(self.spec, texts, sampling, top_logprobs)
        return Reply.read(await self._client.post(path, body, rank=rank), self.spec.name)

    def _admit(self, member: Member, messages: Sequence[Message]) -> int:
        """The estimated prompt length. Raises EngineError if the request cannot be served here."""
        self._check(member)
        estimate = _estimate(messages)
        if estimate >= self.spec.max_model_len:
            raise EngineError(
                f"engine {self.spec.name!r}: the prompt has about {estimate} tokens and the window holds "
                f"{self.spec.max_model_len}; shorten the prompt, or raise max_model_len if the server's window allows"
            )
        return estimate

    def _check(self, member: Member) -> None:
        if member.engine != self.spec.name:
            raise EngineError(
                f"engine {self.spec.name!r} was asked for member {member.name!r} of engine {member.engine!r}"
            )
        if member.adapter is not None:
            raise EngineError(
                f"engine {self.spec.name!r} is remote and has no adapter {member.adapter[:12]} for member "
                f"{member.name!r}; {_NO_ADAPTERS}"
            )


def _estimate(messages: Sequence[Message]) -> int:
    size = sum(len(message.text.encode("utf-8", "replace")) for message in messages)
    return -(-size // BYTES_PER_TOKEN) + TOKENS_PER_TURN * len(messages)


def _label(text: str) -> str | None:
    """The single capital letter that `text` starts with, past blanks and quotes: 'B', ' B', '**B**', '(B)'."""
    found = re.match(r"[^\w]*([A-Z])(?![\w'])", text)
    return found.group(1) if found else None


_NO_ADAPTERS = "serve the adapter there under a model name of its own, or use a vllm engine"
