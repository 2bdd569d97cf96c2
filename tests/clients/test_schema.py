"""Requests made from the schema that the door publishes: none may end in a 5xx, every answer is as it says."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="session")
def published(door_url: str) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{door_url}/openapi.json")


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
def test_requests_made_from_the_published_schema_are_answered_as_it_says(published, mode) -> None:
    operations = [found.ok() for found in published.get_all_operations()]
    assert {(one.method.upper(), one.path) for one in operations} >= {
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/models"),
        ("GET", "/v1/deliberations/{id}"),
        ("POST", "/v1/outcomes"),
    }
    cases = st.one_of(*(one.as_strategy(generation_mode=mode) for one in operations))

    @settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(cases)
    def asked(case: schemathesis.Case) -> None:
        case.validate_response(case.call(timeout=60), checks=CHECKS)

    asked()
