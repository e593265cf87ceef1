"""
Requests for single objects, without the layers of botocore's client.

The client takes about a millisecond of processor time for each request: it interprets the model of the service, emits
events and prepares retries. PUT, GET, HEAD and DELETE of an object need none of this. They are signed and sent here,
which takes a tenth of that time. Small contents are sent and received whole; larger objects are received in parts.

Any response other than the usual ones is discarded. The caller then repeats the request with the client, which retries,
translates errors and finds the region of the bucket.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any, Final
from urllib.parse import quote, urlsplit

from botocore.exceptions import BotoCoreError
from botocore.httpsession import get_cert_path
from urllib3.exceptions import HTTPError

from docker_registry.drivers.s3.connections import Answer, Connections, Download
from docker_registry.drivers.s3.signatures import RequestSigner

#: Parameters of the client's methods, and the headers that they become.
_HEADERS: Final = {
    "ContentMD5": "content-md5",
    "IfMatch": "if-match",
    "IfNoneMatch": "if-none-match",
    "Range": "range",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "StorageClass": "x-amz-storage-class",
}

#: Characters of a key that are not escaped in a URL, besides letters and digits; most keys have no others.
_SAFE: Final = "/-._~"
_ALL_SAFE: Final = re.compile(r"[A-Za-z0-9/\-._~]*")

#: Statuses of responses that the client handles better, such as redirects to another region. After three of them in a
#: row, all requests are left to the client for a minute.
_UNSUITABLE: Final = frozenset({301, 307, 400, 403})
_MAX_UNSUITABLE: Final = 3
_PAUSE_SECONDS: Final = 60.0

#: Statuses of responses that are returned; after any other, the request is left to the client.
_SUITABLE: Final = frozenset({200, 204, 206, 404, 412})

_FAILURES: Final = (BotoCoreError, HTTPError, HTTPException, OSError, ValueError)


class ObjectRequests:
    """Sends requests for the objects of one bucket."""

    def __init__(self, client: Any, bucket: str) -> None:
        """
        Args:
            client: of botocore, for S3.
        """
        config = client.meta.config
        # These are not part of botocore's documented interface; without them, requests are left to the client.
        credentials = getattr(getattr(client, "_request_signer", None), "_credentials", None)
        session = getattr(getattr(client, "_endpoint", None), "http_session", None)
        verify = getattr(session, "_verify", None)
        proxies = getattr(session, "_proxy_config", None)  # of the settings or of the environment
        self._unsuitable = 0
        self._paused_until = 0.0
        self._connections: Connections | None = None
        if credentials is None or verify is None or proxies is None:
            return
        signed = urlsplit(client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"}))
        origin, self._folder = f"{signed.scheme}://{signed.netloc}", signed.path[:-1]
        if proxies.proxy_url_for(origin):
            return
        is_secure = signed.scheme == "https"
        host = signed.netloc.removesuffix(":443" if is_secure else ":80")
        self._signer = RequestSigner(credentials, client.meta.region_name, host)
        self._fixed_headers = f"user-agent: {config.user_agent_extra}\r\naccept-encoding: identity\r\n"
        self._connections = Connections(
            origin,
            ca_file=get_cert_path(verify) if is_secure else None,
            connect_seconds=config.connect_timeout,
            read_seconds=config.read_timeout,
            max_idle=config.max_pool_connections,
        )

    @property
    def are_possible(self) -> bool:
        """False if :meth:`send` leaves all requests to the client."""
        return self._connections is not None and time.monotonic() >= self._paused_until

    def send(
        self, method: str, key: str, options: Mapping[str, str] | None = None, body: bytes | bytearray | None = None
    ) -> Answer | None:
        """
        Send a request once.

        Args:
            options: parameters of the client's method.

        Returns:
            The response, if it has status 200, 204, 404 or 412 and a complete body; None if the request must be
            repeated with the client. The store may have executed it or not.
        """
        connections = self._connections
        if connections is None or time.monotonic() < self._paused_until:
            return None
        content = b"" if body is None else bytes(body)
        length = "" if body is None else f"content-length: {len(content)}\r\n"
        try:
            answer = connections.exchange(method, self._head(method, key, options or {}, length), content)
        except _FAILURES:
            return None
        return answer if self._is_suitable(answer.status) else None

    def download(self, key: str, options: Mapping[str, str]) -> Download | Answer | None:
        """
        Send a GET request once, and return as soon as its response begins.

        Args:
            options: parameters of the client's ``get_object``.

        Returns:
            The response, if it has status 200 or 206; one of status 404 or 412 with its whole body; None if the request
            must be repeated with the client.
        """
        connections = self._connections
        if connections is None or time.monotonic() < self._paused_until:
            return None
        try:
            answer = connections.download(self._head("GET", key, options, ""))
        except _FAILURES:
            return None
        return answer if self._is_suitable(answer.status) else None

    def _head(self, method: str, key: str, options: Mapping[str, str], length: str) -> bytes:
        path = self._folder + (key if _ALL_SAFE.fullmatch(key) else quote(key, safe=_SAFE))
        headers = self._signer.sign(method, path, {_HEADERS[name]: value for name, value in options.items()})
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        return f"{method} {path} HTTP/1.1\r\n{lines}{self._fixed_headers}{length}\r\n".encode("ascii")

    def _is_suitable(self, status: int) -> bool:
        self._unsuitable = self._unsuitable + 1 if status in _UNSUITABLE else 0
        if self._unsuitable == _MAX_UNSUITABLE:
            self._unsuitable, self._paused_until = 0, time.monotonic() + _PAUSE_SECONDS
        return status in _SUITABLE

    def leave_to_client(self) -> None:
        """Leave all requests to the client from now on."""
        self._paused_until = math.inf

    def close(self) -> None:
        """Close all connections."""
        if self._connections is not None:
            self._connections.close()
