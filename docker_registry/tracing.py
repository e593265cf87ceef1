"""
Traces: one span for each request, exported by OTLP over HTTP.

OpenTelemetry's own environment variables configure it (https://opentelemetry.io/docs/specs/otel/protocol/exporter/);
it is off unless ``OTEL_EXPORTER_OTLP_ENDPOINT`` or ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` is set. A span continues the
trace of the header ``traceparent``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import gevent

from docker_registry import __version__
from docker_registry.errors import ConfigError
from docker_registry.http.exchange import TRACEPARENT, Exchange

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

#: Variables that turn traces on.
_SWITCHES: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

#: Variables that choose the protocol; the first one that is set applies.
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL: Final = "http/protobuf"

#: Loggers that report a collector which cannot be reached as an error, though no request is affected.
_LOGGERS: Final = ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk._shared_internal")

#: Methods that name a span; clients may send any word.
_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})

#: Longer texts from clients are cut.
_MAX_CHARACTERS: Final = 1024

#: How long a worker that ends waits for the export of its last spans.
_CLOSE_SECONDS: Final = 2.0


def open_tracing(environ: Mapping[str, str]) -> Tracing | None:
    """
    Return the observer that exports traces; None if they are off.

    Raises:
        ConfigError: the library is not installed or rejects a variable, or the protocol of traces is not OTLP over
            HTTP.
    """
    is_off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none"
    if is_off or not any(map(environ.get, _SWITCHES)):
        return None
    protocol = next(filter(environ.get, _PROTOCOLS), None)
    if protocol is not None and environ[protocol] != _PROTOCOL:
        raise ConfigError(f"{protocol} must be {_PROTOCOL}.")
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace  # noqa: F401
    except ImportError:
        raise ConfigError("Traces need a library: pip install 'docker-registry[otel]'.") from None
    try:
        return Tracing(environ)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"OpenTelemetry rejects one of its variables (OTEL_…): {error}") from None


class Tracing:
    """An observer of exchanges (:mod:`docker_registry.http.exchange`) that exports their spans in the background."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """
        Args:
            environ: examined for the name of the service, by default ``docker-registry``; the library reads all other
                variables from the environment of the process.

        Raises:
            RuntimeError, ValueError: the library rejects a variable.
        """
        is_named = environ.get("OTEL_SERVICE_NAME") or "service.name" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        self._resource = {"service.version": __version__} | ({} if is_named else {"service.name": "docker-registry"})
        self._provider: TracerProvider | None = None
        self._new_provider().shutdown()  # otherwise the first request would meet a variable that is rejected

    def __call__(self, exchange: Exchange) -> None:
        """Create the span of an exchange; health probes have none."""
        from opentelemetry.trace import SpanKind, StatusCode

        if exchange.route.startswith("health."):
            return
        end = time.time_ns()
        method = exchange.method if exchange.method in _METHODS else "HTTP"
        span = (
            self._open()
            .get_tracer("docker_registry", __version__)
            .start_span(
                f"{method} {exchange.route}".strip(),
                context=_parent(exchange.traceparent),
                kind=SpanKind.SERVER,
                attributes=_attributes(exchange),
                start_time=end - int(exchange.seconds * 1e9),
            )
        )
        if exchange.status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end(end)

    def close(self) -> None:
        """Export the last spans, for at most two seconds."""
        if self._provider is not None:
            with suppress(gevent.Timeout), gevent.Timeout(_CLOSE_SECONDS):
                self._provider.shutdown()

    def _open(self) -> TracerProvider:
        """Start the export with the first span: commands open the tracing too, but handle no requests."""
        if self._provider is None:
            self._provider = self._new_provider()
        return self._provider

    def _new_provider(self) -> TracerProvider:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        for name in _LOGGERS:
            logging.getLogger(name).addFilter(_as_warning)
        provider = TracerProvider(resource=Resource.create(self._resource), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return provider


def _attributes(exchange: Exchange) -> dict[str, Any]:
    """Return attributes in the names of OpenTelemetry's semantic conventions, where there are any."""
    texts = {
        "http.request.method": exchange.method,
        "http.route": exchange.route,
        "url.path": exchange.target.partition("?")[0],
        "client.address": exchange.client,
        "user_agent.original": exchange.user_agent,
        "enduser.id": exchange.principal or exchange.user,
        "docker_registry.repository": exchange.repository,
        "docker_registry.reference": exchange.reference,
        "docker_registry.digest": exchange.digest,
        "docker_registry.request_id": exchange.request_id,
        "docker_registry.upstream": exchange.upstream,
    }
    return {
        **{name: text[:_MAX_CHARACTERS] for name, text in texts.items() if text},
        "http.response.status_code": exchange.status,
        "http.request.body.size": exchange.bytes_in,
        "http.response.body.size": exchange.bytes_out,
        "docker_registry.cached": exchange.is_cached,
        "docker_registry.first_byte_seconds": exchange.first_byte_seconds,
    }


def _parent(traceparent: str) -> Context:
    """Return the context of the header traceparent; an empty one if it is malformed or missing."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    found = TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if found is None:
        return Context()
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    parent = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _as_warning(record: logging.LogRecord) -> bool:
    record.levelno, record.levelname = logging.WARNING, logging.getLevelName(logging.WARNING)
    return True
