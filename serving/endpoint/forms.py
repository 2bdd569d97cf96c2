"""The form a client asks its answer to have: checked within a time limit, whatever schema it is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import regex
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend
from referencing import Registry

from serving.endpoint.body import depth_exceeds
from serving.endpoint.errors import bad_field
from serving.endpoint.schema import JsonFormat, ResponseFormat, SchemaFormat
from serving.shaping import AnswerSchema, SchemaError

CHECK_S = 0.5
"""A schema of a few lines can ask for years of comparisons, and nobody else is served meanwhile."""
MAX_SCHEMA_DEPTH = 32
ANY_OBJECT = '{"type": "object"}'

_Check = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


class _TooLong(Exception):
    """The time for a comparison is over."""


class LimitedSchema(AnswerSchema):
    """An `AnswerSchema` of somebody we do not know: no comparison takes longer than `CHECK_S`."""

    def __init__(self, text: str) -> None:
        """Raises SchemaError as `AnswerSchema` does."""
        super().__init__(text)
        self._deadline = 0.0
        checks = {name: self._limited(check) for name, check in Draft202012Validator.VALIDATORS.items()}
        checks |= {
            "pattern": self._limited(self._pattern),
            "patternProperties": self._limited(self._pattern_properties),
        }
        self._validator = extend(Draft202012Validator, checks)(self.schema, registry=Registry())

    def problem(self, value: object) -> str:
        """As `AnswerSchema.problem`."""
        self._deadline = time.monotonic() + CHECK_S
        try:
            return super().problem(value)
        except (_TooLong, TimeoutError):
            return f"comparing it with the schema took longer than {CHECK_S:g} s"
        except regex.error as error:
            return f"a pattern of the schema cannot be read: {error}"

    def _limited(self, check: _Check) -> _Check:
        def limited(validator: Any, asked: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
            if time.monotonic() > self._deadline:
                raise _TooLong
            yield from check(validator, asked, instance, schema) or ()

        return limited

    def _pattern(self, validator: Any, asked: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if isinstance(instance, str) and not self._found(asked, instance):
            yield ValidationError(f"{instance!r} does not match {asked!r}")

    def _pattern_properties(self, validator: Any, asked: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if not isinstance(instance, dict):
            return
        for pattern, inner in asked.items():
            for name, value in instance.items():
                if self._found(pattern, name):
                    yield from validator.descend(value, inner, path=name, schema_path=pattern)

    def _found(self, pattern: str, text: str) -> bool:
        left = max(0.001, self._deadline - time.monotonic())
        return regex.search(pattern, text, timeout=left) is not None


def schema_of(form: ResponseFormat | None) -> AnswerSchema | None:
    """The schema an answer has to follow; None: any words will do. Raises Refused (400), naming the field."""
    if isinstance(form, JsonFormat):
        return LimitedSchema(ANY_OBJECT)
    if not isinstance(form, SchemaFormat):
        return None
    where = "response_format.json_schema.schema"
    try:
        return LimitedSchema(json.dumps(_checked_depth(form.json_schema.json_schema, where), ensure_ascii=False))
    except SchemaError as error:
        raise bad_field(where, str(error)) from None


def _checked_depth(schema: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    if depth_exceeds(schema, MAX_SCHEMA_DEPTH):
        raise bad_field(where, f"expected a schema at most {MAX_SCHEMA_DEPTH} levels deep, got a deeper one")
    return schema
