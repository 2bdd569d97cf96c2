"""What most tests of a deliberation start from: a double for the engine, a task, three members."""

from __future__ import annotations

import pytest

from mesh.types import Member, Task
from tests.mesh.doubles import Double


@pytest.fixture
def double() -> type[Double]:
    return Double


@pytest.fixture
def task() -> Task:
    return Task(id="t1", question="What is 3 + 4?", type="sums", answer_kind="number", instruction="Give the number.")


@pytest.fixture
def three() -> tuple[Member, ...]:
    return (
        Member(name="ZOE-SEAT", engine="e1", family="fox"),
        Member(name="YAN-SEAT", engine="e2", family="owl"),
        Member(name="XIA-SEAT", engine="e1", family="fox"),
    )
