"""The child process that holds untrusted answers against patterns and JSON schemas: JSON lines in, JSON lines out.

Run as a script by `evolve.judging.scorer`, so it imports nothing of this project. Both a pattern and a schema's
`pattern` can take for ever over the wrong text: what they do to this process, its parent survives. A schema that refers
to another one on a server is an error; nothing is ever fetched.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
from pathlib import Path
from typing import Any

MEMORY_HEADROOM_BYTES = 512 * 1024**2
FENCE = re.compile(r"```[A-Za-z0-9]*\s+(.*?)\s*```", re.DOTALL)


def main() -> None:
    """Answer requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    import jsonschema  # loaded before memory is limited
    import referencing.exceptions

    raised = (jsonschema.SchemaError, referencing.exceptions.Unresolvable, re.error, RecursionError, MemoryError)
    _limit_memory()
    _answer(answers, {"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        _limit_time(request["cpu_s"], request["wall_s"])
        try:
            reply: dict[str, Any] = {"right": follows(request["rule"], request["answer"])}
        except raised as error:
            reply = {"error": f"{type(error).__name__}: {error}"[:300]}
        _limit_time(0.0, 0.0)
        _answer(answers, reply)


def follows(rule: dict[str, Any], answer: str) -> bool:
    """Whether `answer` follows one rule, a dumped `RegexRule` or `SchemaRule`."""
    if rule["kind"] == "json_schema":
        return _fits(json.loads(rule["schema_text"]), answer)
    pattern = re.compile(rule["pattern"], re.IGNORECASE if rule["ignore_case"] else 0)
    text = answer.strip()
    return (pattern.fullmatch(text) if rule["whole"] else pattern.search(text)) is not None


def _fits(schema: Any, answer: str) -> bool:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry

    fenced = FENCE.fullmatch(answer.strip())
    try:
        value = json.loads(
            fenced.group(1) if fenced else answer, object_pairs_hook=_no_duplicates, parse_constant=_no_constant
        )
    except (ValueError, RecursionError):
        return False  # no JSON
    kind = validator_for(schema, default=Draft202012Validator)
    kind.check_schema(schema)
    # An empty registry: the default one would fetch whatever "$ref" names.
    validator = kind(schema, format_checker=kind.FORMAT_CHECKER, registry=Registry())
    return bool(validator.is_valid(value))


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")  # which of the two would count?
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _answer(answers: Any, reply: dict[str, Any]) -> None:
    answers.write(json.dumps(reply) + "\n")
    answers.flush()


def _limit_time(cpu_s: float, wall_s: float) -> None:
    """Let the kernel end this process after so long, in the middle of C code and without a parent too; 0: no limit."""
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    signal.setitimer(signal.ITIMER_REAL, wall_s)


def _limit_memory() -> None:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return  # not Linux: the time limit alone has to do
    used = int(statm.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = used + MEMORY_HEADROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


if __name__ == "__main__":
    main()
