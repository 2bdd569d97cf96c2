"""A deterministic stand-in for a model: solves what it can read with a set probability, takes part in every phase."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence

from mesh.engine import EngineError
from mesh.parse import parse_answer
from mesh.text import well_formed
from mesh.types import Completion, Member, Message, Profile, Sampling, Score
from serving.adapters import Adapter, BaseModelShape
from serving.config import ScriptedSpec
from serving.scripted_prompt import Prompt, read_prompt
from serving.scripted_solver import Operation, draw, near_miss, pick, solve
from serving.scripted_structure import put_into
from serving.slots import RankedSlots
from serving.structure import StructureError

FAVOUR = 0.8
"""Probability of the label it favours in a choice, and of the answer it holds in a scored text."""
OTHER_ANSWER = (1.0 - FAVOUR) / 6
NO_ANSWER = 0.01
NATS_PER_BYTE = 0.5
"""What the words of a scored text cost, whatever they say; the answer in them costs the rest."""


class ScriptedEngine:
    """Implements `Engine` as a pure function of member, prompt, seed and sample index: no clock, no order of calls.

    A sample is right with probability `skill` of the kind of question (plus `adapter_gain` with an adapter), else a
    near miss; at temperature 0 the draw ignores seed and sample. Draws are the same with and without an adapter, so
    that a positive gain never turns a right sample wrong. Recognising a right answer among shown ones succeeds in half
    of the cases in which finding it fails. Tokens are words between white space. What it cannot read (anything but
    integer sums, products, gcd and lcm) has one stable stand-in answer, which is then what "right" means.
    """

    def __init__(self, spec: ScriptedSpec) -> None:
        """Reads the shapes in `spec.base_shape`, if there is one; raises as `BaseModelShape.from_directory` does."""
        self.spec = spec
        self._base = None if spec.base_shape is None else BaseModelShape.from_directory(spec.base_shape).fingerprint
        self._adapters: dict[str, Adapter] = {}
        self._slots: tuple[asyncio.AbstractEventLoop, RankedSlots] | None = None
        self._asleep = False
        self._skills = {entry.operation: entry.skill for entry in spec.operations}

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """The adapters that are loaded, by hash, in the order of loading."""
        return self._adapters

    async def start(self) -> None:
        """Nothing to start."""

    async def shutdown(self) -> None:
        """Forgets the adapters, as the end of a process would."""
        self._adapters.clear()

    async def sleep(self) -> None:
        """Refuses every request from now on; those under way end."""
        self._asleep = True

    async def wake(self) -> None:
        """Serves again."""
        self._asleep = False

    async def probe(self) -> None:
        """Nothing can be wrong with it."""

    async def complete(
        self, member: Member, messages: Sequence[Message], sampling: Sampling, *, rank: int = 0
    ) -> tuple[tuple[Completion, ...], int]:
        """As `RankedEngine.complete`: the slots are given by rank."""
        prompt_tokens = self._admit(member, messages)
        prompt = read_prompt(messages)
        texts = [self._says(member, prompt, sampling, sample) for sample in range(sampling.num_samples)]
        completions = tuple(_completion(text, sampling, member.adapter) for text in texts)
        await self._take_time(max(completion.output_tokens for completion in completions), rank)
        return completions, prompt_tokens

    async def choose(
        self, member: Member, messages: Sequence[Message], labels: Sequence[str], *, rank: int = 0
    ) -> tuple[float, ...]:
        """As `RankedEngine.choose`; all labels weigh the same when the prompt shows no answer under any of them."""
        self._admit(member, messages)
        await self._take_time(1, rank)
        favourite = self._favourite(member, read_prompt(messages))
        if len(labels) == 1 or favourite not in labels:
            return tuple(1.0 / len(labels) for _ in labels)
        rest = (1.0 - FAVOUR) / (len(labels) - 1)
        return tuple(FAVOUR if label == favourite else rest for label in labels)

    async def score(self, member: Member, messages: Sequence[Message], text: str, *, rank: int = 0) -> Score:
        """As `RankedEngine.score`: every byte costs the same; the answer in the text costs least if it is held right.

        What the member holds to be right is what it answers at temperature 0.
        """
        prompt_tokens, num_tokens = self._admit(member, messages), len(text.split())
        if not num_tokens:
            raise EngineError(f"engine {self.spec.name!r}: expected a text to score, got {text!r}, which has no words")
        self._check_length(prompt_tokens + num_tokens)
        await self._take_time(1, rank)
        answer = parse_answer(text, "number")
        belief = OTHER_ANSWER if answer is not None else NO_ANSWER
        if answer is not None and answer == self._holds(member, read_prompt(messages).question):
            belief = FAVOUR
        num_bytes = len(well_formed(text).encode())
        return Score(log_prob=math.log(belief) - NATS_PER_BYTE * num_bytes, num_tokens=num_tokens, num_bytes=num_bytes)

    async def count_tokens(self, member: Member, messages: Sequence[Message]) -> int:
        """Words of all turns, and one for the role of each."""
        self._check_engine(member)
        return _num_tokens(messages)

    async def profile(self, member: Member) -> Profile:
        """As `Engine.profile`; `model` differs between two specs of different skill."""
        self._check_engine(member)
        skills = "".join(f", {operation} {skill:g}" for operation, skill in self._skills.items())
        return Profile(
            engine=self.spec.name,
            model=f"scripted (skill {self.spec.skill:g}{skills}, adapter gain {self.spec.adapter_gain:g})",
            max_model_len=self.spec.max_model_len,
            has_chat_template=True,
            accepts_system_role=True,
            adds_bos=False,
            token_exact=True,
            can_score=True,
            structures=("choice", "regex", "json"),
        )

    async def load_adapter(self, adapter: Adapter) -> float:
        """Makes members with this adapter usable; 0 seconds. Raises EngineError for another base or a large rank."""
        if self._base is not None and adapter.base != self._base:
            raise EngineError(
                f"engine {self.spec.name!r}: expected an adapter for base {self._base[:12]}, got one for "
                f"{adapter.base[:12]} ({adapter.hash[:12]}); train it on {self.spec.base_shape}"
            )
        if adapter.rank > self.spec.max_lora_rank:
            raise EngineError(
                f"engine {self.spec.name!r}: expected an adapter of rank at most {self.spec.max_lora_rank}, got "
                f"{adapter.rank} ({adapter.hash[:12]}); raise max_lora_rank or train a smaller one"
            )
        self._adapters[adapter.hash] = adapter
        return 0.0

    async def retire_adapter(self, adapter_hash: str) -> None:
        """Makes members with this adapter unusable. Raises EngineError if it is not loaded."""
        self._check_adapter(adapter_hash)
        del self._adapters[adapter_hash]

    async def _take_time(self, num_tokens: int, rank: int) -> None:
        """Waits as long as a call of so many tokens takes, once one of the slots is free."""
        seconds = self.spec.latency_s + self.spec.latency_per_token_s * num_tokens
        if self.spec.num_slots is None:
            await asyncio.sleep(seconds)
            return
        loop = asyncio.get_running_loop()
        if self._slots is None or self._slots[0] is not loop:
            self._slots = loop, RankedSlots(self.spec.num_slots)
        async with self._slots[1].held(rank):
            await asyncio.sleep(seconds)

    def _says(self, member: Member, prompt: Prompt, sampling: Sampling, sample: int) -> str:
        """One sample, before stop strings and budget cut it."""
        operation, right = solve(prompt.question)
        greedy = sampling.temperature == 0.0
        key = (0 if greedy else sampling.seed, 0 if greedy else sample, member.engine, member.name, prompt.question)
        chance = self._chance(member, operation)
        if prompt.wants == "revision" and right in prompt.shown:
            chance = _recognises(chance)
        answer = right if draw(*key) < chance else near_miss(right, *key)
        wrong_shown = [shown for shown in prompt.shown if shown != right]
        if prompt.wants == "revision" and answer != right and wrong_shown:
            answer = wrong_shown[pick(len(wrong_shown), "follows", *key)]
        said = f"{LEADS[pick(len(LEADS), 'words', *key)]} Answer: {answer}"
        if prompt.wants == "critique":
            said = OBJECTION.format(answer=answer)
        if sampling.structure is None:
            return said
        try:
            return put_into(sampling.structure, answer, said, pick(2**16, "choice", *key))
        except StructureError as error:
            raise EngineError(f"engine {self.spec.name!r}: {error}") from error

    def _holds(self, member: Member, question: str) -> str:
        """Its answer to a question alone, at temperature 0."""
        operation, right = solve(question)
        key = (0, 0, member.engine, member.name, question)
        return right if draw(*key) < self._chance(member, operation) else near_miss(right, *key)

    def _favourite(self, member: Member, prompt: Prompt) -> str | None:
        """The label it would vote for, whatever order the options are listed in; None if there are no options."""
        operation, right = solve(prompt.question)
        key = ("vote", member.engine, member.name, prompt.question)
        good = sorted(label for label, answer in prompt.options if answer == right)
        bad = sorted((answer, label) for label, answer in prompt.options if answer != right)
        if good and (not bad or draw(*key) < _recognises(self._chance(member, operation))):
            return good[0]
        return bad[pick(len(bad), *key)][1] if bad else None

    def _chance(self, member: Member, operation: Operation) -> float:
        return min(1.0, max(0.0, self._skills.get(operation, self.spec.skill) + self._gain(member)))

    def _gain(self, member: Member) -> float:
        """Of the member's adapter, in proportion to its scale (alpha / rank), up to the whole of `adapter_gain`."""
        if member.adapter is None:
            return 0.0
        adapter = self._adapters[member.adapter]
        scale = adapter.alpha / adapter.rank if adapter.alpha else 1.0
        return self.spec.adapter_gain * min(1.0, scale)

    def _admit(self, member: Member, messages: Sequence[Message]) -> int:
        """Prompt length. Raises EngineError for a member, an adapter or a prompt that cannot be served here."""
        self._check_engine(member)
        if self._asleep:
            raise EngineError(f"engine {self.spec.name!r} sleeps while a specialist is trained; wake it first")
        if member.adapter is not None:
            self._check_adapter(member.adapter)
        num_tokens = _num_tokens(messages)
        self._check_length(num_tokens)
        return num_tokens

    def _check_length(self, num_tokens: int) -> None:
        if num_tokens >= self.spec.max_model_len:
            raise EngineError(
                f"engine {self.spec.name!r}: the prompt has {num_tokens} tokens and the window holds "
                f"{self.spec.max_model_len}; shorten the prompt or raise max_model_len"
            )

    def _check_engine(self, member: Member) -> None:
        if member.engine != self.spec.name:
            raise EngineError(
                f"engine {self.spec.name!r} was asked for member {member.name!r} of engine {member.engine!r}; "
                "route by member.engine"
            )

    def _check_adapter(self, adapter_hash: str) -> None:
        if adapter_hash not in self._adapters:
            raise EngineError(f"engine {self.spec.name!r} has no adapter {adapter_hash[:12]}; load it first")


def _recognises(chance: float) -> float:
    return chance + (1.0 - chance) / 2


def _completion(text: str, sampling: Sampling, adapter: str | None) -> Completion:
    """`text` cut before the first stop string, then to the budget, as a model's would be."""
    ends = [place for stop in sampling.stop if stop and (place := text.find(stop)) >= 0]
    said = text[: min(ends)] if ends else text
    words = said.split(" ")
    if len(said.split()) > sampling.max_tokens:
        return Completion(
            text=" ".join(words[: sampling.max_tokens]),
            finish_reason="length",
            output_tokens=sampling.max_tokens,
            adapter=adapter,
        )
    return Completion(text=said, output_tokens=len(said.split()), adapter=adapter)


def _num_tokens(messages: Sequence[Message]) -> int:
    return sum(1 + len(message.text.split()) for message in messages)


# One line each: a stop string of "\n", usual for base models, must not cut the answer off.
LEADS = ("Working it out.", "Step by step.", "I checked this twice.", "Going through the terms.")
OBJECTION = "Its last step is off, because carrying every term over carefully comes to {answer} instead."
