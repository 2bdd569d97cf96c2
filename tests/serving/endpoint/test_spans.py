"""Spans: what a collector gets of a request, whose child it is, and that no message text is in it."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from mesh.config import CouncilConfig
from mesh.deliberate import deliberate
from mesh.types import Deliberation, Exchange, Member, Message, Part, Task, Usage
from serving.config import ScriptedSpec
from serving.endpoint.observing import NoSpans, RequestSpan, Served
from serving.endpoint.spans import OtelSpans, open_spans
from serving.fleet import Fleet
from serving.scripted_engine import ScriptedEngine

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
MEMBERS = (Member(name="ann", engine="a", family="a"), Member(name="ben", engine="b", family="b"))


def finished(spans: OtelSpans, exporter: InMemorySpanExporter) -> tuple[ReadableSpan, ...]:
    spans.close()
    return tuple(exporter.get_finished_spans())


def watched(span: RequestSpan) -> Deliberation:
    fleet = Fleet({name: ScriptedEngine(ScriptedSpec(name=name, family=name)) for name in "ab"})
    task = Task(id="t", question="What is 17 + 25, says the payroll of ACME?", answer_kind="number")
    return asyncio.run(deliberate(task, MEMBERS, fleet, CouncilConfig(), seed=1, watch=span.called))


def test_a_deliberation_is_one_span_with_one_below_it_for_every_call() -> None:
    exporter = InMemorySpanExporter()
    spans = OtelSpans(exporter)
    span = spans.start("chatcmpl-1", "mesh:council", None)
    deliberation = watched(span)
    span.ended(Served("mesh:council", 200, 1.0, first_byte_s=0.5, usage=deliberation.usage))
    *calls, whole = finished(spans, exporter)
    assert whole.name == "invoke_agent mesh:council"
    assert whole.attributes is not None
    assert whole.attributes["gen_ai.operation.name"] == "invoke_agent"
    assert whole.attributes["gen_ai.response.id"] == "chatcmpl-1"
    assert whole.attributes["gen_ai.usage.output_tokens"] == deliberation.usage.output_tokens
    assert whole.status.status_code == StatusCode.UNSET
    assert len(calls) == len(deliberation.exchanges)
    assert {call.name for call in calls} == {"chat ann", "chat ben"}
    assert {call.parent.span_id for call in calls if call.parent} == {whole.context.span_id}
    assert {(call.attributes or {})["evomesh.phase"] for call in calls} >= {"propose", "critique", "revise"}


def test_no_text_of_a_message_is_in_a_span() -> None:
    exporter = InMemorySpanExporter()
    spans = OtelSpans(exporter)
    span = spans.start("chatcmpl-1", "mesh", None)
    watched(span)
    span.ended(Served("mesh", 200, 1.0))
    assert "ACME" not in "".join(one.to_json() for one in finished(spans, exporter))


def test_a_request_continues_the_clients_trace() -> None:
    exporter = InMemorySpanExporter()
    spans = OtelSpans(exporter)
    spans.start("r", "ann", f"00-{TRACE}-{PARENT}-01").ended(Served("ann", 200, 0.1))
    (span,) = finished(spans, exporter)
    assert span.name == "chat ann"
    assert format(span.context.trace_id, "032x") == TRACE
    assert span.parent is not None
    assert format(span.parent.span_id, "016x") == PARENT


@pytest.mark.parametrize("broken", ["", "00-zz", "00-" + "0" * 32 + f"-{PARENT}-01", "\x00" * 55, "ü" * 5000])
def test_a_broken_traceparent_starts_a_trace_of_its_own(broken: str) -> None:
    exporter = InMemorySpanExporter()
    spans = OtelSpans(exporter)
    spans.start("r", "ann", broken).ended(Served("ann", 200, 0.1))
    assert finished(spans, exporter)[0].parent is None


def test_a_failed_request_and_a_failed_call_say_what_kind_of_failure_it_was() -> None:
    exporter = InMemorySpanExporter()
    spans = OtelSpans(exporter)
    span = spans.start("r", "mesh", None)
    message = Message(role="user", parts=(Part(text="hello"),))
    for error in ("TimeoutError: no answer within 3 s", "what a model said: ACME"):
        usage = Usage(seconds=3.0)
        span.called("draft", Exchange(member="ann", phase="propose", messages=(message,), error=error, usage=usage))
    span.ended(Served("", 503, 0.1))
    timeout, other, whole = finished(spans, exporter)
    assert (timeout.attributes or {})["error.type"] == "TimeoutError"
    assert (other.attributes or {})["error.type"] == "_OTHER"
    assert (timeout.end_time or 0) - (timeout.start_time or 0) == 3_000_000_000
    assert whole.name == "chat unknown"
    assert (whole.attributes or {})["error.type"] == "503"
    assert whole.status.status_code == StatusCode.ERROR


def test_without_a_collector_nothing_is_traced() -> None:
    assert isinstance(open_spans(None), NoSpans)


class Collector(BaseHTTPRequestHandler):
    """Takes spans as an OTLP collector does."""

    got: list[tuple[str, ExportTraceServiceRequest]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.got.append((self.path, ExportTraceServiceRequest.FromString(body)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def collector() -> Iterator[HTTPServer]:
    Collector.got = []
    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_real_collector_gets_the_spans_when_the_door_closes(collector: HTTPServer) -> None:
    spans = open_spans(f"http://127.0.0.1:{collector.server_port}")
    spans.start("r", "ann", None).ended(Served("ann", 200, 0.1))
    spans.close()
    ((path, request),) = Collector.got
    assert path == "/v1/traces"
    (resource,) = request.resource_spans
    assert [
        attribute.value.string_value for attribute in resource.resource.attributes if attribute.key == "service.name"
    ] == ["evomesh"]
    assert [span.name for scope in resource.scope_spans for span in scope.spans] == ["chat ann"]


def test_a_collector_that_is_gone_does_not_hold_up_the_end_of_the_door() -> None:
    spans = open_spans("http://127.0.0.1:9")
    spans.start("r", "ann", None).ended(Served("ann", 200, 0.1))
    started = time.monotonic()
    spans.close()
    assert time.monotonic() - started < 10
