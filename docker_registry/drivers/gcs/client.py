"""
From settings to requests that Google Cloud Storage takes, and its errors in our words.

The requests are those of its JSON API (https://cloud.google.com/storage/docs/json_api), over the session of
google-auth: the answers to them, unlike the methods of google-cloud-storage, tell which generation of an object was
read. It is all Python on plain sockets, so under gevent a request that waits lets the others go on.
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

#: What the libraries below raise when the network fails them, also in the middle of an answer.
NETWORK_ERRORS: Final = (requests.RequestException, HTTPError, OSError)
#: Answers after which the same request may succeed a little later.
RETRIED: Final = frozenset({408, 429, 500, 502, 503, 504})

_GOOGLE: Final = "https://storage.googleapis.com"
_SCOPES: Final = ("https://www.googleapis.com/auth/devstorage.read_write",)
#: A request is sent so often, after pauses that double: an object takes one change a second, more are answered 429.
_ATTEMPTS: Final = 6
_CONNECT_SECONDS: Final = 10
#: More requests at once than this are served too, over connections that are closed after them.
_CONNECTIONS: Final = 256

_NO_CREDENTIALS: Final = (
    "There are no credentials for Google Cloud Storage: name the JSON file of a service account in "
    "gcs_credentials_file, or let GOOGLE_APPLICATION_CREDENTIALS or the machine's own service account tell them"
)


@dataclass(frozen=True, kw_only=True)
class Account:
    """
    Who we are, and where.

    Attributes:
        credentials_file: JSON of a service account; without it google-auth looks for credentials.
        endpoint: URL of a store that is not Google's; ``STORAGE_EMULATOR_HOST`` tells one without credentials.
        timeout_seconds: how long it may be silent.
    """

    credentials_file: Path | None = None
    endpoint: str | None = None
    timeout_seconds: int = 60

    def connect(self) -> Api:
        """
        Make a session, which any number of threads and greenlets may share.

        Raises:
            ConfigError: there are no credentials, or they cannot be read.
        """
        emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
        endpoint = self.endpoint or emulator or _GOOGLE
        if "://" not in endpoint:
            endpoint = f"http://{endpoint}"
        if emulator and not self.endpoint:  # it knows no tokens, but may be given signed URLs
            credentials = self._from_file() if self.credentials_file else None
            session = requests.Session()
        else:
            credentials = self._from_file() if self.credentials_file else _ambient()
            session = AuthorizedSession(credentials)
        adapter = HTTPAdapter(pool_maxsize=_CONNECTIONS)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        return Api(session, endpoint.rstrip("/"), credentials, self.timeout_seconds)

    def _from_file(self) -> Credentials:
        try:
            credentials: Credentials = service_account.Credentials.from_service_account_file(
                self.credentials_file, scopes=_SCOPES
            )
        except OSError as error:
            raise ConfigError(f"The file of gcs_credentials_file cannot be read ({error.strerror})") from None
        except (ValueError, exceptions.GoogleAuthError):
            raise ConfigError("The file of gcs_credentials_file is not the JSON key of a service account") from None
        return credentials


def _ambient() -> Credentials:
    try:
        credentials: Credentials = google.auth.default(scopes=_SCOPES)[0]
    except exceptions.DefaultCredentialsError:
        raise ConfigError(_NO_CREDENTIALS) from None
    except exceptions.GoogleAuthError as error:
        raise StorageUnavailable(f"The credentials for Google cannot be had ({type(error).__name__}).") from None
    return credentials


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What came back.

    Attributes:
        attempts: how often the request was sent.
    """

    response: requests.Response
    attempts: int

    @property
    def status(self) -> int:
        return self.response.status_code

    def json(self) -> Any:
        """Return the body, which is JSON."""
        try:
            return self.response.json()
        except ValueError:
            raise StorageUnavailable("Google answers what is no JSON; maybe a proxy does it.") from None

    def check(self) -> Answer:
        """Return the answer when it is a success, else raise what it says."""
        if self.status < 400:
            return self
        self.response.close()
        raise in_our_words(self.status)


class Api:
    """Sends requests, again when that may help."""

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
    ) -> Answer:
        """
        Send a request until there is an answer that sending it again would not change.

        Args:
            url: whole, or a path at the endpoint.
            stream: whether the body is read by the caller.
            attempts: how often at most; the last answer is returned whatever it is.

        Raises:
            StorageUnavailable: Google cannot be reached.
            StorageError: it refuses the credentials.
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
        return Answer(response, attempt)

    def close(self) -> None:
        """Close all connections."""
        self._session.close()


def object_path(bucket: str, key: str) -> str:
    """Return the path of an object in the JSON API."""
    return f"/storage/v1/b/{quote(bucket, safe='')}/o/{quote(key, safe='')}"


@contextmanager
def translated() -> Iterator[None]:
    """Raise what the libraries raise in the registry's words; what they say themselves shows addresses and tokens."""
    try:
        yield
    except exceptions.RefreshError as error:
        if error.retryable:
            raise StorageUnavailable("Google cannot renew the credentials for now.") from None
        raise StorageError(
            "Google refuses the credentials of gcs_credentials_file, or those it found by itself."
        ) from (None)
    except exceptions.GoogleAuthError as error:
        raise StorageUnavailable(f"The token for Google cannot be had ({type(error).__name__}).") from None
    except NETWORK_ERRORS as error:
        raise StorageUnavailable(f"Google Cloud Storage cannot be reached ({type(error).__name__}).") from None


def in_our_words(status: int) -> StorageError:
    """Translate the status of an answer (https://cloud.google.com/storage/docs/json_api/v1/status-codes)."""
    if status == 404:
        return PathNotFound()
    if status == 412:
        return PreconditionFailed()
    if status == 401:
        return StorageError("Google refuses the credentials (401).")
    if status == 403:
        return StorageError("Google does not let these credentials do that with the bucket of gcs_bucket (403).")
    if status in RETRIED or (status >= 500 and status != 507):
        return StorageUnavailable(f"Google Cloud Storage cannot answer for now ({status}).")
    if status == 507:
        return StorageFull("The store has no room left.")
    return StorageError(f"Google Cloud Storage refuses a request ({status}).")
