"""
Authenticate at Swift, pool its connections and translate its errors.

A python-swiftclient connection holds the response that is being read, so greenlets cannot share one. A connection is
checked out of the pool for one request or stream, and returned only if the response was read to its end.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from keystoneauth1.exceptions import CatalogException
from keystoneauth1.exceptions import ClientException as KeystoneError
from keystoneauth1.exceptions import HttpError as KeystoneHttpError
from requests.exceptions import RequestException
from swiftclient.client import Connection
from swiftclient.exceptions import ClientException
from urllib3.exceptions import HTTPError

from docker_registry.drivers.swift.keystone import Identity
from docker_registry.errors import ConfigError, PathNotFound, StorageError, StorageFull, StorageUnavailable

#: Exceptions that the libraries raise on network errors.
NETWORK_ERRORS = (RequestException, HTTPError, OSError)

#: Retries of a failed request, with exponential backoff.
_RETRIES = 3
_FIRST_PAUSE_SECONDS = 0.3
_LONGEST_PAUSE_SECONDS = 2

_UNAUTHORIZED = "Swift rejects the user, the password or the project (swift_user, swift_password, swift_tenant_name)."

#: What Swift does when it answers with a status; follows "Swift" in messages.
_MESSAGES = {
    400: "rejects a malformed request",
    403: "denies this user access (check its rights on swift_container)",
    405: "denies this user access (check its rights on swift_container)",
    409: "is processing another change of the same file",
    412: "has another version of the file",
}


@dataclass(frozen=True, kw_only=True, repr=False)  # a repr would show the password
class Account:
    """
    The credentials and endpoint of a Swift account.

    Attributes:
        authurl: URL of Keystone (``…/v3``), or of TempAuth or a compatible service (``…/auth/v1.0``).
        auth_version: ``1``, ``2`` or ``3``; None derives it from *authurl*.
        timeout_seconds: timeout of every request.
    """

    authurl: str
    user: str
    password: str
    auth_version: str | None = None
    project: str | None = None
    region: str | None = None
    user_domain: str = "Default"
    project_domain: str = "Default"
    endpoint_type: str = "public"
    cacert: str | None = None
    insecure: bool = False
    timeout_seconds: float = 60

    @property
    def uses_keystone(self) -> bool:
        """Whether tokens are requested from Keystone."""
        if self.auth_version is not None:
            return self.auth_version != "1"
        return re.search(r"/v1(\.0)?/?$", self.authurl) is None

    def connector(self) -> Callable[[], Connection]:
        """
        Return a factory of connections, which share one Keystone token.

        Raises:
            ConfigError: the URL, the user or the password is not set.
        """
        for name, value in (
            ("swift_authurl", self.authurl),
            ("swift_user", self.user),
            ("swift_password", self.password),
        ):
            if not value:
                raise ConfigError(f"{name} is not set")
        options = {
            "retries": _RETRIES,
            "starting_backoff": _FIRST_PAUSE_SECONDS,
            "max_backoff": _LONGEST_PAUSE_SECONDS,
            "timeout": self.timeout_seconds,
            "cacert": self.cacert,
            "insecure": self.insecure,
        }
        os_options = {"region_name": self.region, "endpoint_type": self.endpoint_type}
        if self.uses_keystone:
            session = Identity(
                authurl=self.authurl,
                user=self.user,
                password=self.password,
                version=self.auth_version,
                project=self.project,
                user_domain=self.user_domain,
                project_domain=self.project_domain,
                cacert=self.cacert,
                insecure=self.insecure,
                timeout_seconds=self.timeout_seconds,
            ).session()
            return lambda: Connection(session=session, os_options=os_options, **options)
        return lambda: Connection(
            self.authurl, self.user, self.password, auth_version="1", os_options=os_options, **options
        )


class Connections:
    """A pool of connections, which grows to the number of concurrent requests."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._idle: deque[Connection] = deque()

    @contextmanager
    def acquire(self) -> Iterator[Connection]:
        """Check out a connection for the ``with`` block, and translate exceptions that the block raises."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect()
        try:
            with translated():
                yield connection
        except PathNotFound:
            self._idle.append(connection)
            raise
        except BaseException:  # part of the response may be unread, so the connection cannot be reused
            connection.close()
            raise
        self._idle.append(connection)

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()


@contextmanager
def translated() -> Iterator[None]:
    """Translate library exceptions into :class:`StorageError` and its subclasses."""
    try:
        yield
    except ClientException as error:
        raise _registry_error_of(error.http_status) from None
    except CatalogException:
        raise StorageError(
            "Keystone's catalog has no Swift endpoint: check swift_region_name, swift_endpoint_type, swift_tenant_name."
        ) from None
    except KeystoneHttpError as error:
        raise (StorageError(_UNAUTHORIZED) if error.http_status < 500 else _unavailable(error)) from None
    except (KeystoneError, *NETWORK_ERRORS) as error:
        raise _unavailable(error) from None


def _registry_error_of(status: int | None) -> StorageError:
    if status == 404:
        return PathNotFound()
    if status == 401:
        return StorageError(_UNAUTHORIZED)
    if status in (413, 507):
        return StorageFull("Swift is full, or the quota of the account or the container is used up.")
    if not status or status in (408, 429, 498, 499) or status >= 500:
        return StorageUnavailable(f"Swift cannot answer for now (status {status or 'unknown'}).")
    return StorageError(f"Swift {_MESSAGES.get(status, 'rejects a request')} (status {status}).")


def _unavailable(error: Exception) -> StorageUnavailable:
    # Do not include the text of the error: it shows addresses, and sometimes the content of the request.
    return StorageUnavailable(f"Swift or its Keystone cannot be reached ({type(error).__name__}).")
