from __future__ import annotations

import contextlib
import json
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.types import Choice, JsonSchema, Regex
from serving.structure import StructureError, check_structure, problem_with

SCHEMAS = st.recursive(
    st.sampled_from(
        [
            {"type": "string"},
            {"type": "integer", "minimum": 3},
            {"type": "number"},
            {"type": "boolean"},
            {"type": "null"},
            {"enum": ["a", 7]},
            {"const": None},
            {"type": "string", "minLength": 2, "maxLength": 5},
        ]
    ),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(
            lambda properties: {"type": "object", "properties": properties, "required": sorted(properties)}
        ),
        inner.map(lambda items: {"type": "array", "items": items, "minItems": 2}),
        st.lists(inner, min_size=1, max_size=2).map(lambda options: {"anyOf": options}),
    ),
    max_leaves=8,
)


def json_form(schema: object) -> JsonSchema:
    return JsonSchema(json_schema=json.dumps(schema))


@given(schema=SCHEMAS, answer=st.one_of(st.integers().map(str), st.text(max_size=8)))
def test_scripted_text_for_a_plain_schema_keeps_it(schema: object, answer: str) -> None:
    from serving.scripted_structure import put_into

    form = json_form(schema)
    assert problem_with(form, put_into(form, answer, "said", 0)) == ""


def test_choice_is_to_the_letter() -> None:
    form = Choice(choices=("yes", "no"))
    assert problem_with(form, "yes") == ""
    assert "expected one of 'yes', 'no', got 'yes '" in problem_with(form, "yes ")


def test_pattern_matches_the_whole_text() -> None:
    assert problem_with(Regex(pattern="[0-9]+"), "42") == ""
    assert "matches whole" in problem_with(Regex(pattern="[0-9]+"), "42 ")


@pytest.mark.parametrize("text", ["{", "NaN", "Infinity", "[" * 100_000, '{"a": 1} x', ""])
def test_what_is_no_json_is_said_to_be_none(text: str) -> None:
    assert problem_with(json_form({}), text).startswith("expected JSON")


def test_violation_names_its_place() -> None:
    form = json_form({"properties": {"a": {"items": {"type": "integer"}}}})
    assert problem_with(form, '{"a": [1, "x"]}') == "'x' is not of type 'integer' at /a/1"


@pytest.mark.parametrize("form", [Regex(pattern="(a+)+$"), json_form({"pattern": "^(a+)+$"})])
def test_pattern_without_end_is_given_up_in_time(form: Regex | JsonSchema) -> None:
    text, started = "a" * 40 + "!", time.monotonic()
    with contextlib.suppress(StructureError):
        problem_with(form, text if isinstance(form, Regex) else json.dumps(text))
    assert time.monotonic() - started < 3.0


def test_references_never_reach_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a schema's reference was fetched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for reference in ("http://127.0.0.1:9/schema", "file:///etc/passwd", "#/nowhere"):
        with pytest.raises(StructureError, match="references into the schema itself"):
            problem_with(json_form({"$ref": reference}), "1")


def test_schema_that_refers_to_itself_without_end_is_refused() -> None:
    with pytest.raises(StructureError, match="go round"):
        problem_with(json_form({"$ref": "#"}), "1")


@pytest.mark.parametrize(
    "form",
    [
        Regex(pattern="(7"),
        JsonSchema(json_schema="{"),
        JsonSchema(json_schema="[]"),
        JsonSchema(json_schema='{"type": 7}'),
        JsonSchema(json_schema="[" * 60_000),
    ],
)
def test_senseless_form_is_an_error(form: Regex | JsonSchema) -> None:
    with pytest.raises(StructureError, match="expected"):
        check_structure(form)
