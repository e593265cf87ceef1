"""
Keys of another service that are fetched over https and renewed.

They are fetched every hour by each worker in the background, and at once for a token that names an unknown key, at
most every ten seconds. Keys that could not be renewed stay valid for a day.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from docker_registry.auth.external.key_sets import parse_jwks, select
from docker_registry.auth.tokens.json_web_tokens import VerifyingKey
from docker_registry.dependencies import depend_on_version
from docker_registry.errors import AuthorityUnavailable

logger = logging.getLogger(__name__)

#: Age at which keys are renewed, and at which keys that cannot be renewed are no longer used.
RENEWED_SECONDS: Final = 3600.0
MAX_AGE_SECONDS: Final = 24 * 3600.0

#: Shortest time between two attempts, so that tokens with invented key ids do not burden the service.
RETRY_SECONDS: Final = 10.0


class RemoteKeys:
    """The keys of another service; a :class:`~docker_registry.auth.external.key_sets.KeySource`."""

    def __init__(self, name: str, fetch: Callable[[], bytes], now: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            name: of the service, for the log.
            fetch: returns its JSON Web Key Set; raises :class:`AuthorityUnavailable`.
            now: a monotonic clock; returns seconds.
        """
        self._name = name
        self._fetch = fetch
        self._now = now
        self._keys: Sequence[VerifyingKey] = ()
        self._fetched_at = self._tried_at = -MAX_AGE_SECONDS
        self._turn = threading.Lock()
        self._version = 0

    @property
    def version(self) -> object:
        """See :class:`~docker_registry.auth.external.key_sets.KeySource`."""
        depend_on_version(self._current_version)
        return self._current_version()

    def find(self, wanted: str | None) -> Sequence[VerifyingKey]:
        """See :class:`~docker_registry.auth.external.key_sets.KeySource`."""
        found = select(self._usable(), wanted)
        if not found and self._is_retry_allowed():
            self.renew()
            found = select(self._usable(), wanted)
        if not self._usable():
            raise AuthorityUnavailable(f"The keys of {self._name} are unavailable.")
        return found

    def renew_if_due(self) -> None:
        """Fetch the keys if they are older than an hour."""
        if self._now() - self._fetched_at >= RENEWED_SECONDS and self._is_retry_allowed():
            self.renew()

    def renew(self) -> None:
        """Fetch the keys; those of before stay if that fails. Concurrent callers wait for the same attempt."""
        called_at = self._now()
        with self._turn:
            if self._tried_at >= called_at:
                return
            try:
                keys = parse_jwks(self._fetch())
            except (AuthorityUnavailable, ValueError) as error:
                logger.error("the keys of %s could not be fetched: %s", self._name, error)
            else:
                if list(keys) != list(self._keys):
                    self._keys = keys
                    self._version += 1
                self._fetched_at = self._now()
            finally:
                self._tried_at = self._now()

    def _usable(self) -> Sequence[VerifyingKey]:
        return self._keys if self._now() - self._fetched_at < MAX_AGE_SECONDS else ()

    def _is_retry_allowed(self) -> bool:
        return self._now() - self._tried_at >= RETRY_SECONDS

    def _current_version(self) -> object:
        return self._version, bool(self._usable())
