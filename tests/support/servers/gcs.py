"""
A real emulator of Google Cloud Storage on a free port of loopback, with documented features that it lacks.

These are generation conditions, pages of lists, generations with contents, ranges beyond the end, empty uploads,
cancelled uploads, times that a change of metadata renews, and buckets that may not be used. It runs as a process of its
own, this very file: ``python tests/support/servers/gcs.py PORT``.
"""

from __future__ import annotations

import contextlib
import http.server
import itertools
import json
import shutil
import sys
import tempfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any

#: Pages so short that every longer list needs several.
PAGE_ENTRIES = 5
#: Requests for buckets under this path are then answered 403.
FORBID = "/lab/forbid/"

_numbers = itertools.count()


@dataclass(frozen=True)
class GcsServer:
    """Where it listens."""

    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def make_bucket(self) -> str:
        """Make a bucket, and return its name."""
        name = f"lab{next(_numbers)}"
        self._post("/storage/v1/b?project=lab", json.dumps({"name": name}).encode())
        return name

    def forbid(self, bucket: str) -> None:
        """Deny all access to a bucket."""
        self._post(f"{FORBID}{bucket}", b"{}")

    def put(self, bucket: str, name: str, content: bytes) -> None:
        """Write an object, bypassing the driver."""
        query = urllib.parse.urlencode({"uploadType": "media", "name": name})
        self._post(f"/upload/storage/v1/b/{bucket}/o?{query}", content, "application/octet-stream")

    def uploads(self) -> int:
        """Return the number of unfinished uploads."""
        with urllib.request.urlopen(f"{self.endpoint}/lab/uploads", timeout=10) as answer:
            return int(answer.read())

    def _post(self, path: str, body: bytes, content_type: str = "application/json") -> None:
        request = urllib.request.Request(f"{self.endpoint}{path}", body, {"Content-Type": content_type})
        urllib.request.urlopen(request, timeout=10).close()


def make_service_account(folder: Path) -> Path:
    """Write the JSON key of an unknown service account and return its path."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "account.json"
    account = {
        "type": "service_account",
        "project_id": "lab",
        "private_key_id": "1",
        "private_key": pem.decode(),
        "client_email": "registry@lab.iam.gserviceaccount.com",
        "token_uri": "http://127.0.0.1:9/token",
    }
    path.write_text(json.dumps(account))
    return path


@contextlib.contextmanager
def run_gcs() -> Iterator[GcsServer]:
    """Run a server for the duration of a ``with`` block."""
    from tests.support import processes

    folder = Path(tempfile.mkdtemp(prefix="docker-registry-tests-"))
    port = processes.free_port()
    command = [sys.executable, __file__, str(port)]
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        running = processes.running(command, folder / "log", lambda: processes.listens(port), is_discarded=True)
        stack.enter_context(running)
        yield GcsServer(port)


# --------------------------------------------------------------------------------------- in the process of its own

_forbidden: set[str] = set()
_one_at_a_time = threading.Lock()


def _completed(handler: Any) -> Any:
    """Return a handler that checks conditions, calls one of the emulator's own, and adds missing fields."""

    def answer(request: Any, response: Any, storage: Any) -> None:
        bucket = request.params.get("bucket_name", "")
        name = request.params.get("object_id") or request.query.get("name", [""])[0]
        if request.method in ("POST", "PUT") and request.data is None:  # the body is received here, and kept
            request._data = b""
        with _one_at_a_time:
            objects = storage.objects.get(bucket, {})
            status = _refusal(request, bucket, objects.get(name, {}))
            if status is not None:
                response.status = status
                return
            handler(request, response, storage)
            _add(request, response, objects.get(name))

    return answer


def _refusal(request: Any, bucket: str, found: dict[str, Any]) -> HTTPStatus | None:
    if bucket in _forbidden:
        return HTTPStatus.FORBIDDEN
    generation = found.get("generation", "0")
    for condition in ("ifGenerationMatch", "ifSourceGenerationMatch"):
        wanted = request.query.get(condition, [generation])[0]
        if generation == "0" and wanted != "0" and request.params.get("object_id"):
            return HTTPStatus.NOT_FOUND
        if wanted != generation:
            return HTTPStatus.PRECONDITION_FAILED
    start = _start(request)
    if found and start and start >= int(found["size"]):
        return HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
    return None


def _start(request: Any) -> int:
    return int((request.get_header("range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])


def _add(request: Any, response: Any, found: dict[str, Any] | None) -> None:
    if found and request.method == "GET":
        response["X-Goog-Generation"] = found["generation"]
    if found and request.method == "PATCH":
        found["updated"] = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if request.method == "GET" and request.path.endswith("/o") and response.status == HTTPStatus.OK:
        response._content = json.dumps(_page(request, json.loads(response._content)))


def _page(request: Any, found: dict[str, Any]) -> dict[str, Any]:
    rows = [(item["name"], item) for item in found.get("items") or ()]
    rows += [(prefix, None) for prefix in found.get("prefixes") or ()]
    after = request.query.get("pageToken", [""])[0]
    rows = sorted((row for row in rows if row[0] > after), key=lambda row: row[0])
    some = rows[: min(PAGE_ENTRIES, int(request.query.get("maxResults", ["1000"])[0]))]
    page: dict[str, Any] = {"kind": "storage#objects"}
    if items := [item for _, item in some if item is not None]:
        page["items"] = items
    if prefixes := [name for name, item in some if item is None]:
        page["prefixes"] = prefixes
    if len(some) < len(rows):
        page["nextPageToken"] = some[-1][0]
    return page


def _forbid(request: Any, response: Any, storage: Any) -> None:
    _forbidden.add(request.params["bucket_name"])


def _count_uploads(request: Any, response: Any, storage: Any) -> None:
    response.write_file(str(len(storage.resumable)).encode())


def _cancel(request: Any, response: Any, storage: Any) -> None:
    storage.delete_resumable_file_obj(request.query["upload_id"][0])
    response.status = SimpleNamespace(value=499, phrase="Client Closed Request")


def _incomplete(response: Any, storage: Any, upload_id: str, fallback_end: int = 0) -> None:
    response.status = SimpleNamespace(value=308, phrase="Resume Incomplete")
    if received := storage.get_resumable_byte_count(upload_id):
        response["Range"] = f"bytes=0-{received - 1}"


def _serve(port: int) -> None:
    from gcp_storage_emulator import server
    from gcp_storage_emulator.handlers import objects

    objects._resumable_incomplete = _incomplete
    for _, handlers in server.HANDLERS:
        for method, handler in handlers.items():
            handlers[method] = _completed(handler)
        if "PUT" in handlers and "POST" in handlers:  # where uploads go
            handlers["DELETE"] = _cancel
    own = ((rf"^{FORBID}(?P<bucket_name>[\w]+)$", {"POST": _forbid}), (r"^/lab/uploads$", {"GET": _count_uploads}))
    server.HANDLERS = own + server.HANDLERS
    # Many requests at once, of which some stay half read.
    http.server.ThreadingHTTPServer.request_queue_size = 256
    http.server.HTTPServer = http.server.ThreadingHTTPServer
    server.create_server("127.0.0.1", port, in_memory=True).run()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
