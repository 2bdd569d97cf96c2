"""docs/fleet.md names every setting of a fleet, with the default that it has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from serving.config import FleetConfig, SeparatePool, SleepingEngines, TimeWindow

PAGE = (Path(__file__).parents[2] / "docs" / "fleet.md").read_text()


@pytest.mark.parametrize("key", FleetConfig.model_fields)
def test_every_setting_of_a_fleet_stands_in_the_table_with_its_default(key: str) -> None:
    row = re.search(rf"^\| `{key}` \| (.+?) \| .+\|$", PAGE, re.MULTILINE)
    assert row is not None, f"docs/fleet.md: expected a row for serving.fleet.{key}"
    default = getattr(FleetConfig(), key)
    shown = {"windows": "none", "training": "`{kind: separate}`"}.get(key) or f"`{str(default).removesuffix('.0')}`"
    assert row[1] == shown


@pytest.mark.parametrize("kind", [TimeWindow, SeparatePool, SleepingEngines])
def test_every_setting_of_windows_and_training_places_is_named(kind: type) -> None:
    missing = [key for key in kind.model_fields if key not in PAGE]  # type: ignore[attr-defined]
    assert not missing
