"""Whether a text has the form that was asked for: one of given texts, a regular expression, JSON of a schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import regex
from jsonschema import Draft202012Validator, SchemaError, ValidationError
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable

from mesh.types import Choice, JsonSchema, Regex, Structure

MATCH_TIMEOUT_S = 0.5
"""A pattern of a caller's may take time that doubles with every character of a text."""


class StructureError(ValueError):
    """The form itself makes no sense: no such pattern, no such schema."""


def check_structure(structure: Structure) -> None:
    """Raises StructureError for a pattern or a schema that cannot be read."""
    if isinstance(structure, Regex):
        _pattern(structure.pattern)
    elif isinstance(structure, JsonSchema):
        schema_of(structure)


def schema_of(structure: JsonSchema) -> Any:
    """The schema, decoded: an object, or true or false. Raises StructureError."""
    try:
        schema = json.loads(structure.json_schema)
        if not isinstance(schema, dict | bool):
            raise StructureError(f"expected a JSON schema, an object, got {structure.json_schema[:80]!r}")
        Draft202012Validator.check_schema(schema)
    except (json.JSONDecodeError, RecursionError) as error:
        raise StructureError(f"expected a JSON schema as JSON text: {error}") from None
    except SchemaError as error:
        raise StructureError(f"expected a JSON schema: {error.message} at {_place(error)}") from None
    return schema


def problem_with(structure: Structure, text: str) -> str:
    """Why `text` does not have the form, in words; "" if it has. Raises StructureError as `check_structure` does.

    Formats (`format: date`) are not checked, and a schema's references may point into itself only.
    """
    if isinstance(structure, Choice):
        return "" if text in structure.choices else f"expected one of {_listed(structure.choices)}, got {text[:80]!r}"
    if isinstance(structure, Regex):
        kept = matches(structure.pattern, text, whole=True)
        return "" if kept else f"expected a text that {structure.pattern[:80]!r} matches whole, got {text[:80]!r}"
    schema = schema_of(structure)
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return f"expected JSON, got {text[:80]!r}: {error}"
    return _violation(schema, value)


def _violation(schema: Any, value: Any) -> str:
    # A registry of its own: the default one fetches references from the network.
    validator = _Validator(schema, registry=Registry())
    try:
        found = next(validator.iter_errors(value), None)
    except Unresolvable as error:
        raise StructureError(f"expected references into the schema itself: {error}") from None
    except RecursionError:
        raise StructureError("expected a schema that ends: its references go round") from None
    return "" if found is None else f"{found.message[:200]} at {_place(found)}"


def _check_pattern(
    _validator: Draft202012Validator, pattern: str, value: object, _schema: object
) -> Iterator[ValidationError]:
    """`pattern` as the standard has it, found anywhere in the text, with a limit on time."""
    if isinstance(value, str) and not matches(pattern, value, whole=False):
        yield ValidationError(f"{value[:80]!r} does not match {pattern[:80]!r}")


_Validator = extend(Draft202012Validator, {"pattern": _check_pattern})


def matches(pattern: str, text: str, *, whole: bool) -> bool:
    """Whether `pattern` matches all of `text` or, not `whole`, a piece. Raises StructureError, also out of time."""
    compiled = _pattern(pattern)
    try:
        find = compiled.fullmatch if whole else compiled.search
        return find(text, timeout=MATCH_TIMEOUT_S) is not None
    except TimeoutError:
        raise StructureError(
            f"expected a pattern that can be checked within {MATCH_TIMEOUT_S:g} s, got {pattern[:80]!r}; "
            "write it without repetitions of repetitions"
        ) from None


def _pattern(pattern: str) -> regex.Pattern[str]:
    try:
        return regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        raise StructureError(f"expected a regular expression, got {pattern[:80]!r}: {error}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _place(error: SchemaError | ValidationError) -> str:
    return "".join(f"/{step}" for step in error.absolute_path) or "the root"


def _listed(choices: tuple[str, ...]) -> str:
    return ", ".join(repr(choice[:40]) for choice in choices[:8]) + (", ..." if len(choices) > 8 else "")
