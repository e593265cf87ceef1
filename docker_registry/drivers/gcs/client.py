"""
HTTP client for the JSON API of Google Cloud Storage (https://cloud.google.com/storage/docs/json_api).

It finds credentials, sends requests with retries, and translates errors into those of the registry. It uses a session
of google-auth and not google-cloud-storage, whose methods do not return the generation of the object that was read. The
session is pure Python on plain sockets, so under gevent a waiting request does not block the others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import google.auth
import requests
from google.auth import exceptions
from google.auth.credentials import Credentials
from google.auth.transport.requests import AuthorizedSession
from google.oauth2 import service_account
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from docker_registry.errors import (
    ConfigError,
    PathNotFound,
    PreconditionFailed,
    StorageError,
    StorageFull,
    StorageUnavailable,
)

#: Exceptions that requests and urllib3 raise on network errors, including errors while a body is read.
NETWORK_ERRORS: Final = (requests.RequestException, HTTPError, OSError)
#: Status codes of temporary failures, after which :meth:`Api.send` retries.
RETRIED: Final = frozenset({408, 429, 500, 502, 503, 504})

_GOOGLE: Final = "https://storage.googleapis.com"
_SCOPES: Final = ("https://www.googleapis.com/auth/devstorage.read_write",)
#: Attempts per request, with pauses of 0.5, 1, 2, 4 and 8 seconds between them. The pauses also cover Google's limit of
#: about one change per second to the same object, beyond which it answers 429.
_ATTEMPTS: Final = 6
_CONNECT_SECONDS: Final = 10
#: Connections kept open for reuse. Further concurrent requests open connections that are closed after one response.
_CONNECTIONS: Final = 256

_NO_CREDENTIALS: Final = (
    "There are no credentials for Google Cloud Storage: name the JSON file of a service account in "
    "gcs_credentials_file, or let GOOGLE_APPLICATION_CREDENTIALS or the machine's own service account tell them"
)


@dataclass(frozen=True, kw_only=True)
class Account:
    """
    The credentials and endpoint of Google Cloud Storage.

    Attributes:
        credentials_file: JSON key of a service account; if unset, google-auth looks for default credentials.
        endpoint: base URL to use instead of Google's. If unset, the environment variable ``STORAGE_EMULATOR_HOST`` may
            name an emulator, to which requests are sent without credentials.
        timeout_seconds: read timeout of every request; the connect timeout is the same, but at most 10 seconds.
    """

    credentials_file: Path | None = None
    endpoint: str | None = None
    timeout_seconds: int = 60

    def connect(self) -> Api:
        """
        Create a client that threads and greenlets may share.

        Raises:
            ConfigError: there are no credentials, or they cannot be read.
            StorageUnavailable: google-auth temporarily cannot get credentials.
        """
        emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
        endpoint = self.endpoint or emulator or _GOOGLE
        if "://" not in endpoint:
            endpoint = f"http://{endpoint}"
        if emulator and not self.endpoint:  # an emulator needs no tokens; credentials only sign URLs
            credentials = self._credentials_from_file() if self.credentials_file else None
            session = requests.Session()
        else:
            credentials = self._credentials_from_file() if self.credentials_file else _default_credentials()
            session = AuthorizedSession(credentials)
        adapter = HTTPAdapter(pool_maxsize=_CONNECTIONS)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        return Api(session, endpoint.rstrip("/"), credentials, self.timeout_seconds)

    def _credentials_from_file(self) -> Credentials:
        try:
            credentials: Credentials = service_account.Credentials.from_service_account_file(
                self.credentials_file, scopes=_SCOPES
            )
        except OSError as error:
            raise ConfigError(f"The file of gcs_credentials_file cannot be read ({error.strerror})") from None
        except (ValueError, exceptions.GoogleAuthError):
            raise ConfigError("The file of gcs_credentials_file is not the JSON key of a service account") from None
        return credentials


def _default_credentials() -> Credentials:
    try:
        credentials: Credentials = google.auth.default(scopes=_SCOPES)[0]
    except exceptions.DefaultCredentialsError:
        raise ConfigError(_NO_CREDENTIALS) from None
    except exceptions.GoogleAuthError as error:
        raise StorageUnavailable(f"Google credentials are unavailable ({type(error).__name__}).") from None
    return credentials


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """
    A response and the number of attempts it took.

    Attributes:
        attempts: how often the request was sent, from 1. If it is greater than 1, an earlier attempt may have taken
            effect although its response was lost: 412 may be the result of the caller's own write, 404 of its own
            deletion.
    """

    response: requests.Response
    attempts: int

    @property
    def status(self) -> int:
        return self.response.status_code

    def json(self) -> Any:
        """
        Return the parsed JSON body.

        Raises:
            StorageUnavailable: the body is not JSON, so probably a proxy sent it.
        """
        try:
            return self.response.json()
        except ValueError:
            raise StorageUnavailable("The response is not JSON; check whether a proxy sent it.") from None

    def check(self) -> ApiResponse:
        """
        Return this response if its status is below 400; otherwise close it and raise.

        Raises:
            StorageError: the error that :func:`registry_error_of` returns for the status.
        """
        if self.status < 400:
            return self
        self.response.close()
        raise registry_error_of(self.status)


class Api:
    """Sends requests and retries them after temporary failures."""

    def __init__(self, session: requests.Session, endpoint: str, credentials: object, timeout_seconds: int) -> None:
        self.endpoint = endpoint
        self.credentials = credentials
        self._session = session
        self._timeout = (min(_CONNECT_SECONDS, timeout_seconds), timeout_seconds)

    def send(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Any = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        stream: bool = False,
        attempts: int = _ATTEMPTS,
    ) -> ApiResponse:
        """
        Send a request, and retry it after network errors and the status codes in :data:`RETRIED`.

        A response with an error status is returned, not raised; see :meth:`ApiResponse.check`.

        Args:
            url: an absolute URL, or a path relative to the endpoint.
            stream: leave the body on the connection for the caller to read and close; otherwise it is read here.
            attempts: maximum number of attempts, at least 1.

        Raises:
            StorageUnavailable: Google cannot be reached or issues no access token, even in the last attempt.
            StorageError: Google rejects the credentials.
        """
        if url.startswith("/"):
            url = self.endpoint + url
        headers = {"Accept-Encoding": "identity", "User-Agent": "docker-registry", **(headers or {})}
        for attempt in range(1, attempts + 1):
            if attempt > 1:
                time.sleep(0.125 * 2**attempt)
            try:
                with translated():
                    response = self._session.request(
                        method, url, params=params, json=json, data=body,
                        headers=headers, stream=stream, timeout=self._timeout,
                    )  # fmt: skip
            except StorageUnavailable:
                if attempt == attempts:
                    raise
                continue
            if response.status_code not in RETRIED or attempt == attempts:
                break
            response.close()
        return ApiResponse(response, attempt)

    def close(self) -> None:
        """Close all connections."""
        self._session.close()


def object_path(bucket: str, key: str) -> str:
    """Return the percent-encoded URL path of an object in the JSON API."""
    return f"/storage/v1/b/{quote(bucket, safe='')}/o/{quote(key, safe='')}"


@contextmanager
def translated() -> Iterator[None]:
    """
    Translate exceptions of google-auth, requests and urllib3 into the registry's errors.

    The messages contain neither addresses nor tokens.

    Raises:
        StorageUnavailable: a network error, or a temporary failure to get an access token.
        StorageError: Google rejects the credentials.
    """
    try:
        yield
    except exceptions.RefreshError as error:
        if error.retryable:
            raise StorageUnavailable("Google cannot renew the credentials at the moment.") from None
        raise StorageError("Google rejects the credentials; check gcs_credentials_file.") from None
    except exceptions.GoogleAuthError as error:
        raise StorageUnavailable(f"A Google access token is unavailable ({type(error).__name__}).") from None
    except NETWORK_ERRORS as error:
        raise StorageUnavailable(f"Google Cloud Storage cannot be reached ({type(error).__name__}).") from None


def registry_error_of(status: int) -> StorageError:
    """Return the registry's error for a status code (https://cloud.google.com/storage/docs/json_api/v1/status-codes)."""
    if status == 404:
        return PathNotFound()
    if status == 412:
        return PreconditionFailed()
    if status == 401:
        return StorageError("Google refuses the credentials (401).")
    if status == 403:
        return StorageError("Google denies these credentials that access to the bucket of gcs_bucket (403).")
    if status in RETRIED or (status >= 500 and status != 507):
        return StorageUnavailable(f"Google Cloud Storage cannot answer for now ({status}).")
    if status == 507:
        return StorageFull("The store is full.")
    return StorageError(f"Google Cloud Storage refuses a request ({status}).")
