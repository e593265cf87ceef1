"""
Requests for whole small objects, without the layers of botocore's client.

The client takes about a millisecond of processor time for each request: it interprets the model of the service, emits
events and prepares retries. PUT, GET, HEAD and DELETE of an object need none of this. They are built here, signed by
botocore's signer and sent by urllib3, which takes less than half of that time.

Any response other than the usual ones is discarded. The caller then repeats the request with the client, which retries,
translates errors and finds the region of the bucket.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError
from botocore.httpsession import get_cert_path
from urllib3 import HTTPConnectionPool, Timeout, connection_from_url
from urllib3.exceptions import HTTPError

#: Parameters of the client's methods, and the headers that they become.
_HEADERS: Final = {
    "ContentMD5": "Content-MD5",
    "IfMatch": "If-Match",
    "IfNoneMatch": "If-None-Match",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "StorageClass": "x-amz-storage-class",
}

#: Characters of a key that are not escaped in a URL.
_SAFE: Final = "/-._~"

#: Responses that the client handles better, such as redirects to another region. After so many in a row, all requests
#: are left to the client.
_UNSUITABLE: Final = frozenset({301, 307, 400, 403})
_MAX_UNSUITABLE: Final = 3


class Answer(NamedTuple):
    """
    The response to a request.

    Attributes:
        content: the whole body.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def modified(self) -> float:
        """The time of the last modification, in seconds since the Unix epoch."""
        return parsedate_to_datetime(self.headers["Last-Modified"]).timestamp()


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
        self._context = {"client_config": config}
        self._headers = {"User-Agent": config.user_agent_extra or ""}
        self._unsuitable = 0
        self._pool: HTTPConnectionPool | None = None
        if credentials is None or verify is None or proxies is None:
            return
        self._signer = S3SigV4Auth(credentials, "s3", client.meta.region_name)
        signed = urlsplit(client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"}))
        self._origin, self._folder = f"{signed.scheme}://{signed.netloc}", signed.path[:-1]
        if proxies.proxy_url_for(self._origin):
            return
        tls = {"cert_reqs": "CERT_REQUIRED", "ca_certs": get_cert_path(verify)} if signed.scheme == "https" else {}
        self._pool = connection_from_url(
            self._origin,
            maxsize=config.max_pool_connections,
            timeout=Timeout(connect=config.connect_timeout, read=config.read_timeout),
            retries=False,
            **tls,
        )

    @property
    def are_possible(self) -> bool:
        """False if :meth:`send` leaves all requests to the client."""
        return self._pool is not None and self._unsuitable < _MAX_UNSUITABLE

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
        if not self.are_possible or self._pool is None:
            return None
        path = self._folder + quote(key, safe=_SAFE)
        request = AWSRequest(method, self._origin + path)
        for name, value in self._headers.items():
            request.headers[name] = value
        for name, value in (options or {}).items():
            request.headers[_HEADERS[name]] = value
        request.context.update(self._context)
        try:
            self._signer.add_auth(request)
            headers = dict(request.headers.items())
            content = None if body is None else bytes(body)  # sent in one piece with the head, unlike a bytearray
            response = self._pool.urlopen(method, path, content, headers, decode_content=False)
            answer = Answer(response.status, response.headers, response.data)
        except (BotoCoreError, HTTPError, OSError):
            return None
        self._unsuitable = self._unsuitable + 1 if answer.status in _UNSUITABLE else 0
        return answer if answer.status in (200, 204, 404, 412) else None

    def leave_to_client(self) -> None:
        """Send nothing from now on."""
        self._unsuitable = _MAX_UNSUITABLE

    def close(self) -> None:
        """Close all connections."""
        if self._pool is not None:
            self._pool.close()
