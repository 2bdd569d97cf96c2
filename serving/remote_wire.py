"""The wire format of OpenAI-compatible servers: requests are built and replies read here, with nothing sent."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mesh.engine import EngineError
from mesh.types import Choice, Completion, JsonSchema, Regex, Sampling, Structure
from serving.config import RemoteSpec
from serving.structure import schema_of

FINISHED = {"stop": "stop", "eos_token": "stop", "stop_sequence": "stop", "length": "length", None: "stop"}
MAX_SEED = 2**31
"""Seeds are reduced below it: several servers read them as signed 32 bit numbers."""
WRAPPING_TOKENS = 16
"""What the object around a choice or a pattern may cost beside the answer itself."""

_ANSWER = "answer"


def request_of(
    spec: RemoteSpec, turns: Sequence[tuple[str, str]], sampling: Sampling, top_logprobs: int
) -> tuple[str, dict[str, Any]]:
    """(path, JSON body) that ask for `sampling`; `top_logprobs` 0 asks for no log-probabilities."""
    body: dict[str, Any] = {
        "model": spec.model,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "n": sampling.num_samples,
        "seed": sampling.seed % MAX_SEED,
        "stream": False,
    }
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.structure is not None:
        body |= _format_of(sampling.structure, sampling.max_tokens)
    if spec.api == "completions":
        if top_logprobs:
            body["logprobs"] = top_logprobs
        return "completions", body | {"prompt": "\n\n".join(text for _, text in turns)}
    if top_logprobs:
        body |= {"logprobs": True, "top_logprobs": top_logprobs}
    return "chat/completions", body | {"messages": [{"role": role, "content": text} for role, text in turns]}


def unwrapped(structure: Structure, text: str) -> str:
    """The answer in what a server said to `_format_of`; `text` itself where it is not the object asked for."""
    if isinstance(structure, JsonSchema):
        return text
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return text
    answer = said.get(_ANSWER) if isinstance(said, dict) else None
    return answer if isinstance(answer, str) else text


def _format_of(structure: Structure, max_tokens: int) -> dict[str, Any]:
    """All forms as JSON schemas, the one kind that many servers know: a choice or a pattern within an object."""
    if isinstance(structure, JsonSchema):
        return {"response_format": _response_format(schema_of(structure))}
    inner: dict[str, Any] = {"type": "string"}
    if isinstance(structure, Choice):
        inner["enum"] = list(structure.choices)
    if isinstance(structure, Regex):
        inner["pattern"] = f"^(?:{structure.pattern})$"
    schema = {"type": "object", "properties": {_ANSWER: inner}, "required": [_ANSWER], "additionalProperties": False}
    return {"response_format": _response_format(schema), "max_tokens": max_tokens + WRAPPING_TOKENS}


def _response_format(schema: object) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": _ANSWER, "strict": True, "schema": schema}}


@dataclass(frozen=True)
class Reply:
    """What a server said: at least one text, and the likeliest first tokens of the first one if it told them."""

    texts: tuple[str, ...]
    finish_reasons: tuple[Literal["stop", "length", "error"], ...]
    first_token: tuple[tuple[str, float], ...]
    prompt_tokens: int | None
    output_tokens: int | None

    @staticmethod
    def read(data: object, engine: str) -> Reply:
        """Raises EngineError if `data` is no completion."""
        choices = data.get("choices") if isinstance(data, Mapping) else None
        if not isinstance(data, Mapping) or not isinstance(choices, list) or not choices:
            raise EngineError(
                f"engine {engine!r}: expected a reply with 'choices', got {str(data)[:120]!r}; check base_url"
            )
        if not all(isinstance(choice, Mapping) for choice in choices):
            raise EngineError(f"engine {engine!r}: expected choices that are objects, got {str(choices)[:120]!r}")
        usage = data.get("usage")
        counts = usage if isinstance(usage, Mapping) else {}
        return Reply(
            texts=tuple(_text(choice) for choice in choices),
            finish_reasons=tuple(_finish_reason(choice) for choice in choices),
            first_token=_first_token(choices[0].get("logprobs")),
            prompt_tokens=_count(counts.get("prompt_tokens")),
            output_tokens=_count(counts.get("completion_tokens")),
        )

    def completions(self, max_tokens: int) -> tuple[Completion, ...]:
        """The texts with their lengths; servers report one sum for all samples, which is shared out by text length."""
        sizes = [len(text.encode()) for text in self.texts]
        total = sum(sizes) // 4 if self.output_tokens is None else self.output_tokens
        lengths = [min(max_tokens, round(total * size / max(1, sum(sizes)))) for size in sizes]
        return tuple(
            Completion(text=text, finish_reason=reason, output_tokens=length)
            for text, reason, length in zip(self.texts, self.finish_reasons, lengths, strict=True)
        )


def _text(choice: Mapping[str, Any]) -> str:
    message = choice.get("message")
    text = message.get("content") if isinstance(message, Mapping) else choice.get("text")
    # A lone surrogate is legal JSON and no text: it could not be written to a trace.
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else ""


def _finish_reason(choice: Mapping[str, Any]) -> Literal["stop", "length", "error"]:
    reason = choice.get("finish_reason")
    known = FINISHED.get(reason) if isinstance(reason, str | None) else None
    if known == "stop":
        return "stop"
    return "length" if known == "length" else "error"


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _first_token(logprobs: object) -> tuple[tuple[str, float], ...]:
    """(token, log-probability) of the first position, in either of the two shapes the API has; empty: not told."""
    if not isinstance(logprobs, Mapping):
        return ()
    content, legacy = logprobs.get("content"), logprobs.get("top_logprobs")
    pairs: list[tuple[object, object]] = []
    if isinstance(content, list) and content and isinstance(content[0], Mapping):
        top = content[0].get("top_logprobs")
        entries = [entry for entry in top if isinstance(entry, Mapping)] if isinstance(top, list) else []
        pairs = [(entry.get("token"), entry.get("logprob")) for entry in entries]
    elif isinstance(legacy, list) and legacy and isinstance(legacy[0], Mapping):
        pairs = list(legacy[0].items())
    return tuple(
        (token, min(0.0, float(value)))
        for token, value in pairs
        if isinstance(token, str) and isinstance(value, int | float) and value == value
    )
