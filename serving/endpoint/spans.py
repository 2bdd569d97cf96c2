"""Requests as OpenTelemetry spans, for operators who have a collector; no text of a message is ever in one.

Names follow the GenAI semantic conventions of OpenTelemetry 1.41, which are still in development: a request to the mesh
is `invoke_agent mesh`, a member's own request and every call inside a deliberation is `chat MEMBER`.
"""

from __future__ import annotations

import re
import time

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from mesh.types import Exchange, Usage
from serving.endpoint.observing import NoSpans, Served, Spans

SERVICE = "evomesh"
TRACES_PATH = "/v1/traces"
EXPORT_TIMEOUT_S = 5.0
"""A collector that does not answer must not hold up the end of the door."""
_SECOND_NS = 1_000_000_000
_KIND = re.compile(r"[A-Za-z]{1,40}")


def open_spans(endpoint: str | None) -> Spans:
    """Spans that go to the collector at `endpoint` (OTLP over HTTP, e.g. 'http://localhost:4318'); None: nowhere.

    They are sent in the background. What a collector does not take in time is dropped; the door does not wait.
    """
    if endpoint is None:
        return NoSpans()
    url = endpoint if endpoint.endswith(TRACES_PATH) else endpoint.rstrip("/") + TRACES_PATH
    return OtelSpans(OTLPSpanExporter(endpoint=url, timeout=EXPORT_TIMEOUT_S))


class OtelSpans:
    """Implements `Spans` over a span exporter."""

    def __init__(self, exporter: SpanExporter) -> None:
        # A provider of its own: the global one belongs to whoever embeds the door.
        self._provider = TracerProvider(resource=Resource.create({SERVICE_NAME: SERVICE}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(SERVICE)

    def start(self, request_id: str, model: str, traceparent: str | None) -> OtelRequestSpan:
        """As `Spans.start`. A broken `traceparent` starts a new trace."""
        carrier = {} if traceparent is None else {"traceparent": traceparent}
        parent = TraceContextTextMapPropagator().extract(carrier, Context())
        span = self._tracer.start_span("request", context=parent, kind=SpanKind.SERVER)
        span.set_attributes({"gen_ai.provider.name": SERVICE, "gen_ai.response.id": request_id})
        return OtelRequestSpan(self._tracer, span)

    def close(self) -> None:
        """As `Spans.close`."""
        self._provider.shutdown()


class OtelRequestSpan:
    """Implements `RequestSpan`: one span for the request, one below it for each call."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span

    def called(self, path: str, exchange: Exchange) -> None:
        """As `RequestSpan.called`. The call is told of when it ends, so its start is reckoned back."""
        ended = time.time_ns()
        span = self._tracer.start_span(
            f"chat {exchange.member}",
            context=set_span_in_context(self._span, Context()),
            kind=SpanKind.CLIENT,
            start_time=ended - int(exchange.usage.seconds * _SECOND_NS),
            attributes={
                **_attributes("chat", exchange.member, exchange.usage),
                "gen_ai.agent.name": exchange.member,
                "evomesh.phase": exchange.phase,
                "evomesh.round": exchange.round,
                "evomesh.step": path,
            },
        )
        if exchange.error:
            kind = exchange.error.partition(":")[0]
            _fail(span, kind if _KIND.fullmatch(kind) else "_OTHER")
        span.end(ended)

    def ended(self, served: Served) -> None:
        """As `RequestSpan.ended`; the name is given now, when it is known that the model is one that is served."""
        is_mesh = served.model == "mesh" or served.model.startswith("mesh:")
        operation, model = "invoke_agent" if is_mesh else "chat", served.model or "unknown"
        self._span.update_name(f"{operation} {model}")
        self._span.set_attributes(_attributes(operation, model, served.usage))
        self._span.set_attribute("http.response.status_code", served.code)
        if served.first_byte_s is not None:
            self._span.set_attribute("gen_ai.response.time_to_first_chunk", served.first_byte_s)
        if served.code >= 400:
            _fail(self._span, str(served.code))
        self._span.end()


def _attributes(operation: str, model: str, usage: Usage) -> dict[str, AttributeValue]:
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": SERVICE,
        "gen_ai.request.model": model,
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
    }


def _fail(span: Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)
