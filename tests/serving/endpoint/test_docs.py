"""What docs/serving.md says of the door is what the door has: every key, field, metric, code and default."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.endpoint.alone import UNSUPPORTED as UNSUPPORTED_ALONE
from serving.endpoint.chat import UNSUPPORTED
from serving.endpoint.config import EndpointConfig
from serving.endpoint.metrics import Metrics
from serving.endpoint.outcomes import OutcomeReport
from serving.endpoint.relay_wire import REFUSED
from serving.endpoint.schema import ChatRequest, MeshField, MeshOptions

PAGE = Path("docs/serving.md").read_text()
CODE = re.compile(r"code=\"([a-z_]+)\"|\"([a-z_]+)\"\)\.decode|\": \"([a-z_]+)\"\}\.get\(error\.status")


def row(key: str) -> str:
    """The row of a table that is about `key`."""
    found = re.search(rf"^\|[^|\n]*`{re.escape(key)}`[^|\n]*\|.*$", PAGE, re.MULTILINE)
    assert found is not None, f"docs/serving.md: no table has a row for `{key}`"
    return found[0]


@pytest.mark.parametrize("key", EndpointConfig.model_fields)
def test_every_key_of_the_configuration_is_told_with_its_default(key: str) -> None:
    default = EndpointConfig.model_fields[key].default
    said = str(default) if isinstance(default, str | Path) else json.dumps(default)
    assert f"\n| `{key}` | `{said}` |" in PAGE


@pytest.mark.parametrize(
    "field",
    [
        *(name for name in ChatRequest.model_fields if name != "mesh"),
        *(f"mesh.{name}" for name in MeshOptions.model_fields),
        *OutcomeReport.model_fields,
        *MeshField.model_fields,
    ],
)
def test_every_field_that_is_taken_and_every_one_of_the_mesh_is_told(field: str) -> None:
    assert row(field)


@pytest.mark.parametrize("field", sorted({*UNSUPPORTED, *UNSUPPORTED_ALONE, *REFUSED}))
def test_every_field_that_is_known_and_refused_is_told(field: str) -> None:
    assert f"`{field}`" in PAGE


def test_every_metric_is_told_and_no_other() -> None:
    text = Metrics(dict).render().decode()
    told = set(re.findall(r"evomesh_[a-z_]+", PAGE))
    families = [one for one in text_string_to_metric_families(text) if not one.name.endswith("_created")]
    assert told == {f"{one.name}_total" if one.type == "counter" else one.name for one in families}


def test_every_code_of_a_refusal_is_told() -> None:
    files = Path("serving/endpoint").glob("*.py")
    codes = {code for file in files for found in CODE.findall(file.read_text()) for code in found if code}
    assert {"queue_full", "engine_lost"} <= codes
    assert {code for code in codes if f"`{code}`" not in PAGE} == set()
    row_of = re.findall(r"^\| (?:4|5)\d\d \|.*$", PAGE, re.MULTILINE)
    told = {code for line in row_of for code in re.findall(r"`([a-z_]+)`", line.split("|")[2])}
    assert codes <= told
