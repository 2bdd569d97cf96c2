"""What a scripted engine says when the form of its answer is given: its own answer, put into that form."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from mesh.types import Choice, JsonSchema, Structure
from serving.structure import StructureError, matches, problem_with, schema_of

MAX_DEPTH = 32
STOCK = ("yes", "no", "A", "B", "0", "a", "")
"""What it has to say where a pattern leaves no room for its answer."""


def put_into(structure: Structure, answer: str, said: str, spare: int) -> str:
    """`answer` in the form of `structure`; `said` is the sentence it stands in, `spare` picks among choices without it.

    It knows plain schemas (objects, lists, enumerations, bounds, references into the schema) and those patterns that
    one of its own texts matches. Raises StructureError for a form it cannot fill, or one that makes no sense.
    """
    if isinstance(structure, Choice):
        return _chosen(structure.choices, answer, spare)
    texts: tuple[str, ...] = (answer, said, f"Answer: {answer}", *STOCK)
    if isinstance(structure, JsonSchema):
        texts = (_json(structure, answer),)
    for text in texts:
        if not problem_with(structure, text):
            return text
    raise StructureError(f"a scripted engine has nothing to say in this form: {problem_with(structure, texts[0])}")


def _chosen(choices: Sequence[str], answer: str, spare: int) -> str:
    """The choice that is the answer, else the first that names it as a word of its own, else one at random."""
    if answer in choices:
        return answer
    naming = [choice for choice in choices if answer in choice.replace(":", " ").replace(".", " ").split()]
    return naming[0] if naming else choices[spare % len(choices)]


def _json(structure: JsonSchema, answer: str) -> str:
    schema = schema_of(structure)
    return json.dumps(_filled(schema, schema, answer, 0), ensure_ascii=False)


def _filled(schema: Any, root: Any, answer: str, depth: int) -> Any:
    """A value of `schema`; the answer stands in every place that takes it."""
    if depth > MAX_DEPTH:
        raise StructureError(f"a scripted engine fills schemas of at most {MAX_DEPTH} levels")
    if schema is True or schema == {}:
        return answer
    if not isinstance(schema, dict):
        raise StructureError("a scripted engine has nothing to say where the schema allows nothing")
    if "$ref" in schema:
        return _filled(_referred(root, str(schema["$ref"])), root, answer, depth + 1)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return next((value for value in schema["enum"] if str(value) == answer), schema["enum"][0])
    for alternatives in ("anyOf", "oneOf", "allOf"):
        if schema.get(alternatives):
            return _filled(schema[alternatives][0], root, answer, depth + 1)
    return _of_type(_type(schema), schema, root, answer, depth)


def _of_type(kind: str, schema: dict[str, Any], root: Any, answer: str, depth: int) -> Any:
    if kind == "object":
        properties = schema.get("properties", {})
        names = dict.fromkeys([*properties, *schema.get("required", ())])
        return {name: _filled(properties.get(name, True), root, answer, depth + 1) for name in names}
    if kind == "array":
        items = schema.get("items", True)
        return [_filled(items, root, answer, depth + 1) for _ in range(schema.get("minItems", 1))]
    if kind in ("integer", "number"):
        return _number(schema, answer)
    if kind == "boolean":
        return answer.lower() not in ("no", "false", "0")
    if kind == "null":
        return None
    if "pattern" in schema:
        return next((text for text in (answer, *STOCK) if matches(schema["pattern"], text, whole=False)), answer)
    return answer.ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength", len(answer) + 4096)]


def _type(schema: dict[str, Any]) -> str:
    kind = schema.get("type", "object" if "properties" in schema or "required" in schema else "string")
    return str(kind[0] if isinstance(kind, list) else kind)


def _number(schema: dict[str, Any], answer: str) -> int:
    """The answer, or the nearest bound it may not pass."""
    try:
        value = int(answer)
    except ValueError:
        value = 0
    value = max(value, math.ceil(schema.get("minimum", value)))
    return min(value, math.floor(schema.get("maximum", value)))


def _referred(root: Any, reference: str) -> Any:
    found = root
    for step in reference.removeprefix("#").split("/")[1:] if reference.startswith("#") else [reference]:
        key = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or key not in found:
            raise StructureError(f"expected a reference into the schema itself, got {reference!r}")
        found = found[key]
    return found
