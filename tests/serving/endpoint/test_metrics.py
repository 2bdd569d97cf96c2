"""Metrics: what Prometheus reads, and what must never stand in a label."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from prometheus_client.parser import text_string_to_metric_families

from mesh.config import CouncilConfig
from mesh.deliberate import deliberate
from mesh.types import Deliberation, Failure, Member, Task, Usage
from serving.config import ScriptedSpec
from serving.endpoint.metrics import Metrics
from serving.endpoint.observing import DoorMetrics, NoMetrics, Served
from serving.fleet import Fleet
from serving.replica import ReplicaLoad
from serving.roster import Roster
from serving.scripted_engine import ScriptedEngine

MEMBERS = (Member(name="ann", engine="a", family="a"), Member(name="ben", engine="b", family="b"))
SECRET_QUESTION = "What is 17 + 25, says the payroll of ACME?"


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """(name, labels) of every sample, read back as Prometheus would."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def deliberated() -> Deliberation:
    fleet = Fleet({name: ScriptedEngine(ScriptedSpec(name=name, family=name)) for name in "ab"})
    task = Task(id="t", question=SECRET_QUESTION, answer_kind="number")
    return asyncio.run(deliberate(task, MEMBERS, fleet, CouncilConfig(), seed=1))


def test_metrics_are_what_the_door_expects() -> None:
    metrics: Sequence[DoorMetrics] = (Metrics(), NoMetrics())
    for one in metrics:
        one.waiting(1, 2)
        one.served(Served("mesh", 200, 0.1))
        assert isinstance(one.render(), bytes)


def test_requests_are_counted_by_model_and_code_and_timed() -> None:
    metrics = Metrics()
    metrics.served(Served("mesh", 200, 1.5, first_byte_s=0.2))
    metrics.served(Served("mesh", 429, 0.001))
    metrics.served(Served("", 400, 0.001))
    found = samples(metrics)
    assert found["evomesh_requests_total", (("code", "200"), ("model", "mesh"))] == 1
    assert found["evomesh_requests_total", (("code", "429"), ("model", "mesh"))] == 1
    assert found["evomesh_requests_total", (("code", "400"), ("model", "unknown"))] == 1
    assert found["evomesh_request_seconds_sum", (("model", "mesh"),)] == 1.501
    assert found["evomesh_first_byte_seconds_count", (("model", "mesh"),)] == 1


def test_a_deliberation_counts_the_tokens_of_every_engine_once() -> None:
    metrics, deliberation = Metrics(), deliberated()
    metrics.deliberated(deliberation)
    metrics.served(Served("mesh", 200, 1.0, usage=deliberation.usage))
    found = samples(metrics)
    output = sum(found["evomesh_tokens_total", (("engine", name), ("kind", "output"))] for name in "ab")
    prompt = sum(found["evomesh_tokens_total", (("engine", name), ("kind", "prompt"))] for name in "ab")
    assert (prompt, output) == (deliberation.usage.prompt_tokens, deliberation.usage.output_tokens)
    diagnosis = deliberation.verdict.diagnosis
    assert diagnosis is not None
    assert found["evomesh_deliberations_total", (("protocol", "council"), ("shape", diagnosis.shape))] == 1


def test_a_members_own_request_counts_for_its_engine() -> None:
    metrics = Metrics()
    metrics.served(Served("ann", 200, 1.0, usage=Usage(prompt_tokens=5, output_tokens=7), engine="a"))
    found = samples(metrics)
    assert found["evomesh_tokens_total", (("engine", "a"), ("kind", "prompt"))] == 5
    assert found["evomesh_tokens_total", (("engine", "a"), ("kind", "output"))] == 7


def test_failures_are_counted_by_member_and_kind_and_no_text_becomes_a_label() -> None:
    deliberation = deliberated()
    failures = (
        Failure(member="ann", phase="propose", kind="TimeoutError", message="no answer"),
        Failure(member="ben", phase="propose", kind="a secret of ACME's", message=""),
    )
    metrics = Metrics()
    metrics.deliberated(deliberation.model_copy(update={"failures": failures}))
    found = samples(metrics)
    assert found["evomesh_member_failures_total", (("kind", "TimeoutError"), ("member", "ann"))] == 1
    assert found["evomesh_member_failures_total", (("kind", "other"), ("member", "ben"))] == 1
    assert b"ACME" not in metrics.render()
    names_and_labels = [line.rpartition(b" ")[0] for line in metrics.render().splitlines()]  # a value may be a clock's
    assert b"42" not in b"".join(names_and_labels)


def test_what_decided_nothing_is_counted() -> None:
    deliberation = deliberated()
    verdict = deliberation.verdict.model_copy(update={"answer": None})
    metrics = Metrics()
    metrics.deliberated(deliberation.model_copy(update={"verdict": verdict}))
    assert samples(metrics)["evomesh_deliberations_unanswered_total", ()] == 1


def test_only_the_roster_in_use_is_shown() -> None:
    metrics = Metrics()
    first = Roster(channel="prod", seats=MEMBERS, safe="ann", source="run@1")
    second = Roster(channel="prod", seats=MEMBERS, safe="ben", source="run@1")
    for roster in (first, first, second):
        metrics.roster(roster)
    shown = {labels: value for (name, labels), value in samples(metrics).items() if name == "evomesh_roster"}
    assert shown == {(("channel", "prod"), ("roster", second.id)): 1}


def test_replicas_are_read_at_every_scrape() -> None:
    loads: dict[str, Sequence[ReplicaLoad]] = {}

    def read() -> Mapping[str, Sequence[ReplicaLoad]]:
        return loads

    metrics = Metrics(read)
    assert not [name for name, _ in samples(metrics) if name == "evomesh_replica_up"]
    loads["a"] = (
        ReplicaLoad(engine="a", pending=3, running=2, served=9),
        ReplicaLoad(engine="a", replica=1, state="away", restarts=4),
    )
    found = samples(metrics)
    first, second = (("engine", "a"), ("replica", "0")), (("engine", "a"), ("replica", "1"))
    assert found["evomesh_replica_up", first] == 1
    assert found["evomesh_replica_pending", first] == 3
    assert found["evomesh_replica_served_total", first] == 9
    assert found["evomesh_replica_up", second] == 0
    assert found["evomesh_replica_restarts_total", second] == 4


def test_two_doors_of_one_process_do_not_mix() -> None:
    first, second = Metrics(), Metrics()
    first.served(Served("mesh", 200, 1.0))
    assert not [name for name, _ in samples(second) if name == "evomesh_requests_total"]
