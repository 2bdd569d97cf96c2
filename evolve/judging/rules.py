"""From a row of a user's file to the check of one problem: patterns, schemas and tests are looked at before any use."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import ValidationError

from evolve.judging.verifiers import read_number
from evolve.problems.config import (
    FileVerifier,
    JsonSchemaVerifier,
    NumericVerifier,
    PanelVerifier,
    RegexVerifier,
    UnitTestsVerifier,
)
from evolve.problems.types import Case, PanelRule, RegexRule, SchemaRule, UnitTestsRule, VerifierSpec

RULED = (RegexVerifier, JsonSchemaVerifier, UnitTestsVerifier)
"""Verifiers that check against the row's `check`; a row of theirs may do without an answer."""


def rule_of(verifier: FileVerifier, answer: str, check: object) -> VerifierSpec | str:
    """The check of one row, or the reason why the row cannot be used.

    Args:
        verifier: how the file's answers are checked.
        answer: the row's answer; may be empty where `verifier` is one of `RULED`.
        check: the row's `check`, as JSON has it; None: it has none.
    """
    if isinstance(verifier, RegexVerifier):
        return _pattern(verifier, check)
    if isinstance(verifier, JsonSchemaVerifier):
        return _schema(check)
    if isinstance(verifier, UnitTestsVerifier):
        return _tests(verifier, check)
    if isinstance(verifier, PanelVerifier):
        if check is not None and not isinstance(check, str):
            return f"expected 'check' to be the panel's criteria as text, got {_shown(check)}"
        return PanelRule(criteria=(check or "").strip(), verifier=verifier)
    if isinstance(verifier, NumericVerifier) and read_number(answer) is None:
        return f"the verifier is numeric, but the answer {_shown(answer)} is no number"
    return verifier


def _pattern(verifier: RegexVerifier, check: object) -> RegexRule | str:
    if not isinstance(check, str) or not check:
        return f"the verifier is regex: expected 'check' to be a pattern, got {_shown(check)}"
    try:
        re.compile(check)
    except (re.error, RecursionError, OverflowError) as error:
        return f"'check' is no pattern: {error}"
    return RegexRule(pattern=check, whole=verifier.whole, ignore_case=verifier.ignore_case)


def _schema(check: object) -> SchemaRule | str:
    from jsonschema import Draft202012Validator, SchemaError  # a file without schemas does without it
    from jsonschema.validators import validator_for

    try:
        schema: Any = json.loads(check) if isinstance(check, str) else check
    except (ValueError, RecursionError) as error:
        return f"'check' is no JSON: {error}"
    if not isinstance(schema, dict) or not schema:
        return f"the verifier is json_schema: expected 'check' to be a schema, got {_shown(schema)}"
    try:
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        return f"'check' is no JSON schema: {error.message}"
    return SchemaRule(schema_text=json.dumps(schema, sort_keys=True, ensure_ascii=False))


def _tests(verifier: UnitTestsVerifier, check: object) -> UnitTestsRule | str:
    if isinstance(check, str) and check.strip():
        try:
            compile(check, "check", "exec", dont_inherit=True)  # only read: nothing of it runs here
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            return f"'check' is no Python: {error}"
        return UnitTestsRule(test=check, verifier=verifier)
    if isinstance(check, list) and check:
        try:
            return UnitTestsRule(cases=tuple(Case.model_validate(case) for case in check), verifier=verifier)
        except ValidationError as error:
            return f"expected cases like {{'input': '1 2', 'output': '3'}}: {error.errors()[0]['msg']}"
    return f"the verifier is unit_tests: expected 'check' to be cases or a test, got {_shown(check)}"


def _shown(value: object) -> str:
    return "nothing" if value is None else repr(value)[:60]
