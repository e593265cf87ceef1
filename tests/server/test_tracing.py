"""Traces arrive at a real collector by OTLP over HTTP, and a collector that fails affects no request."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from docker_registry.errors import ConfigError
from docker_registry.tracing import open_tracing
from tests.support.servers.registry import Server
from tests.support.timing import wait_until

MANIFEST = b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}'
TYPE = {"Content-Type": "application/vnd.oci.image.index.v1+json"}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(BaseHTTPRequestHandler):
    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.path, self.headers, ExportTraceServiceRequest.FromString(content)))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def collector():
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        server.received, server.status = [], 200
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def spans(collector):
    """Return the received spans: resource, span and attributes."""
    return [
        (values(resource.resource.attributes), span, values(span.attributes))
        for _, _, message in list(collector.received)
        for resource in message.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def values(attributes):
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


class TestASpan:
    def test_describes_a_request_and_continues_its_trace(self, tmp_path, collector):
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_address[1]}",
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Basic%20abc",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        }
        with Server(tmp_path / "store", **settings) as server, requests.Session() as session:
            url = f"{server.url}/v2/acme/web/manifests/v1"
            trace = {"Traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "mine"}
            assert 201 == session.put(url, data=MANIFEST, headers={**TYPE, **trace}, timeout=60).status_code
            wait_until(
                lambda: (
                    session.get(url, timeout=60) and any(row[2]["docker_registry.cached"] for row in spans(collector))
                )
            )
            assert 404 == session.get(f"{url}-none?token=s3cret", timeout=60).status_code
            wait_until(lambda: any(row[2]["http.response.status_code"] == 404 for row in spans(collector)))
            assert 200 == session.get(f"{server.url}/livez", timeout=60).status_code
            collector.status = 400  # it rejects spans; the registry is not affected
            count = len(collector.received)
            assert 200 == session.get(url, timeout=60).status_code
            wait_until(lambda: len(collector.received) > count)
            assert 200 == session.get(url, timeout=60).status_code
            log = wait_until(
                lambda: [line for line in server.log.read_text().splitlines() if "Failed to export" in line]
            )
            assert not [line for line in log if "[ERROR]" in line or "ERROR" in line.split()[:4]]
        path, headers, _ = collector.received[0]
        assert ("/v1/traces", "Basic abc") == (path, headers["Authorization"])
        found = spans(collector)
        resource, span, attributes = next(row for row in found if row[2]["http.request.method"] == "PUT")
        assert ("docker-registry", "test") == (resource["service.name"], resource["deployment.environment.name"])
        assert (TRACE, PARENT) == (span.trace_id.hex(), span.parent_span_id.hex())
        assert ("PUT v2_manifests.put_manifest", span.SPAN_KIND_SERVER) == (span.name, span.kind)
        assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 60e9
        expected = {
            "http.response.status_code": 201,
            "http.request.body.size": len(MANIFEST),
            "url.path": "/v2/acme/web/manifests/v1",
            "docker_registry.repository": "acme/web",
            "docker_registry.reference": "v1",
            "docker_registry.request_id": "mine",
            "client.address": "127.0.0.1",
        }
        assert expected == {name: attributes[name] for name in expected}
        assert not [row for row in found if "s3cret" in str(row) or row[2].get("url.path") == "/livez"]
        missing = next(row for row in found if row[2]["http.response.status_code"] == 404)
        assert b"" == missing[1].parent_span_id


class TestTracing:
    @pytest.mark.parametrize(
        "environ",
        [
            {},
            {"OTEL_SERVICE_NAME": "x"},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
        ],
    )
    def test_is_off(self, environ):
        assert open_tracing(environ) is None

    def test_has_a_protocol_of_its_own(self):
        """A collector of metrics may use another one."""
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
        assert open_tracing({**environ, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}) is not None

    def test_needs_http(self):
        with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf"):
            open_tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})

    @pytest.mark.parametrize(
        "name",
        [
            "OTEL_BSP_SCHEDULE_DELAY",
            "OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER",
            "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
        ],
    )
    def test_needs_variables_that_the_library_accepts(self, monkeypatch, name):
        monkeypatch.setenv(name, "-1")
        with pytest.raises(ConfigError, match="OpenTelemetry rejects"):
            open_tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
