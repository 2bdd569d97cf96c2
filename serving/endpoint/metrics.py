"""What Prometheus reads at `/metrics`: counts and times of the door, and how the fleet behind it stands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mesh.types import Deliberation, Usage
from serving.endpoint.observing import Served
from serving.replica import ReplicaLoad
from serving.roster import Roster

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600)
"""Upper bounds of the histograms: from a scripted engine's milliseconds to the longest deliberation."""

Loads = Callable[[], Mapping[str, Sequence[ReplicaLoad]]]
"""How the replicas of every engine stand, asked at every scrape; see `Fleet.load`."""

_KIND = re.compile(r"[A-Za-z]{1,40}")
"""What an exception's name looks like: a failure of a trace that was read from a file might say anything."""


class Metrics:
    """Implements `DoorMetrics` in a registry of its own, so that two doors in one process do not mix.

    No label holds a caller's text, a key or a team: they are models, members, engines and protocols of the
    configuration, codes, and kinds of failure. So their number is bounded, and whoever may read metrics learns
    nothing of what was asked.
    """

    def __init__(self, loads: Loads | None = None) -> None:
        """`loads` None: nothing is said of replicas."""
        self.registry = CollectorRegistry()
        self._requests = self._counter("evomesh_requests", "Requests that have ended, by HTTP status.", "model", "code")
        self._seconds = self._histogram("evomesh_request_seconds", "Seconds a request took.", "model")
        self._first_byte = self._histogram("evomesh_first_byte_seconds", "Seconds until the first byte.", "model")
        self._queued = self._gauge("evomesh_requests_queued", "Requests that wait for a place.")
        self._running = self._gauge("evomesh_requests_running", "Requests under way.")
        self._deliberations = self._counter(
            "evomesh_deliberations", "Deliberations, by what their disagreement looked like.", "protocol", "shape"
        )
        self._unanswered = self._counter("evomesh_deliberations_unanswered", "Deliberations that decided nothing.")
        self._failures = self._counter(
            "evomesh_member_failures", "Calls in deliberations that gave nothing.", "member", "kind"
        )
        self._tokens = self._counter("evomesh_tokens", "Tokens of served requests.", "engine", "kind")
        self._roster = self._gauge("evomesh_roster", "1 for the seats that served last.", "channel", "roster")
        self._served_roster: tuple[str, str] | None = None
        if loads is not None:
            self.registry.register(ReplicaCollector(loads))

    def waiting(self, num_queued: int, num_running: int) -> None:
        """As `DoorMetrics.waiting`."""
        self._queued.set(num_queued)
        self._running.set(num_running)

    def served(self, request: Served) -> None:
        """As `DoorMetrics.served`."""
        model = request.model or "unknown"
        self._requests.labels(model, str(request.code)).inc()
        self._seconds.labels(model).observe(request.seconds)
        if request.first_byte_s is not None:
            self._first_byte.labels(model).observe(request.first_byte_s)
        if request.engine:
            self._count(request.engine, request.usage)

    def deliberated(self, deliberation: Deliberation) -> None:
        """As `DoorMetrics.deliberated`."""
        diagnosis = deliberation.verdict.diagnosis
        shape = "not diagnosed" if diagnosis is None else diagnosis.shape
        self._deliberations.labels(deliberation.protocol, shape).inc()
        if deliberation.verdict.answer is None:
            self._unanswered.inc()
        engines = {member.name: member.engine for member in deliberation.members}
        for _, part in deliberation.walk():
            for failure in part.failures:
                kind = failure.kind if _KIND.fullmatch(failure.kind) else "other"
                self._failures.labels(failure.member, kind).inc()
            for exchange in part.exchanges:
                self._count(engines.get(exchange.member, "unknown"), exchange.usage)

    def roster(self, roster: Roster) -> None:
        """As `DoorMetrics.roster`."""
        now = (roster.channel, roster.id)
        if now == self._served_roster:
            return
        if self._served_roster is not None:
            self._roster.remove(*self._served_roster)
        self._roster.labels(*now).set(1)
        self._served_roster = now

    def render(self) -> bytes:
        """As `DoorMetrics.render`; of type `CONTENT_TYPE`."""
        return generate_latest(self.registry)

    def _count(self, engine: str, usage: Usage) -> None:
        self._tokens.labels(engine, "prompt").inc(usage.prompt_tokens)
        self._tokens.labels(engine, "output").inc(usage.output_tokens)

    def _counter(self, name: str, sentence: str, *labels: str) -> Counter:
        return Counter(name, sentence, labels, registry=self.registry)

    def _gauge(self, name: str, sentence: str, *labels: str) -> Gauge:
        return Gauge(name, sentence, labels, registry=self.registry)

    def _histogram(self, name: str, sentence: str, *labels: str) -> Histogram:
        return Histogram(name, sentence, labels, registry=self.registry, buckets=SECONDS)


class ReplicaCollector(Collector):
    """Reads the fleet when Prometheus asks, so that nothing has to be kept up to date in between."""

    def __init__(self, loads: Loads) -> None:
        self._loads = loads

    def describe(self) -> Iterator[Metric]:
        """The metrics without values: a registry asks for their names before there is a fleet."""
        return iter(_families())

    def collect(self) -> Iterator[Metric]:
        """One sample a replica."""
        up, pending, running, served, restarts = families = _families()
        for engine, replicas in self._loads().items():
            for load in replicas:
                labels = [engine, str(load.replica)]
                up.add_metric(labels, float(load.alive))
                pending.add_metric(labels, load.pending)
                running.add_metric(labels, load.running)
                served.add_metric(labels, load.served)
                restarts.add_metric(labels, load.restarts)
        return iter(families)


def _families() -> tuple[
    GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily, CounterMetricFamily, CounterMetricFamily
]:
    labels = ["engine", "replica"]
    return (
        GaugeMetricFamily("evomesh_replica_up", "1: the replica can be asked now.", labels=labels),
        GaugeMetricFamily("evomesh_replica_pending", "Requests it took in and has not answered.", labels=labels),
        GaugeMetricFamily("evomesh_replica_running", "Those of them that its engine has.", labels=labels),
        CounterMetricFamily("evomesh_replica_served", "Requests answered by its process.", labels=labels),
        CounterMetricFamily("evomesh_replica_restarts", "Times its process was started again.", labels=labels),
    )
