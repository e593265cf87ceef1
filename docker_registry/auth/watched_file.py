"""Reloads an operator's file when it changes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

from docker_registry import dependencies
from docker_registry.errors import ConfigError

logger = logging.getLogger(__name__)

Content = TypeVar("Content")

#: A larger file is rejected: it cannot have been written by hand, and parsing it would block the event loop.
MAX_BYTES: Final = 16 * 1024 * 1024


class WatchedFile(Generic[Content]):
    """
    The parsed content of a file, current at every call of :meth:`get`.

    The path is followed through symbolic links at each check, so replacing a link (as Kubernetes does with mounted
    secrets) reloads the file too. A version that cannot be used is logged once, and the last usable one stays in force.

    The parser may let other greenlets run, for example by working in a native thread. They get the previous content.

    Attributes:
        version: how many different contents were loaded; 1 after construction.
    """

    def __init__(
        self,
        path: Path,
        parse: Callable[[bytes, Path], Content],
        on_reload: Callable[[str], object] = lambda _: None,
        setting: str = "",
    ) -> None:
        """
        Read the file.

        Args:
            parse: converts the bytes of the file, given its path for messages; raises :class:`ConfigError`.
            on_reload: called with a message for the audit log after changed content was loaded.
            setting: the name of the setting with *path*, for the error.

        Raises:
            ConfigError: the file cannot be read or used.
        """
        self.path = path
        self._parse = parse
        self._on_reload = on_reload
        self._bytes = b""
        self._signature: dependencies.Signature = None
        self._failure = ""
        self._is_loading = False
        self._content: Content
        self.version = 0
        try:
            self._load()
        except ConfigError as error:
            raise ConfigError(f"{setting}: {error}" if setting else str(error)) from None

    def get(self) -> Content:
        """Return the current content, and record the file as a dependency of the current response."""
        try:
            found = self.path.stat()
        except OSError as error:
            dependencies.make_uncacheable()
            self._log_failure(f"{self.path} cannot be read: {error.strerror}")
            return self._content
        dependencies.record(str(self.path), found)
        if self._is_loading:  # by another greenlet
            dependencies.make_uncacheable()
        elif dependencies.signature_of(found) != self._signature:
            self._reload()
        return self._content

    def _reload(self) -> None:
        self._is_loading = True
        try:
            self._load()
        except ConfigError as error:
            dependencies.make_uncacheable()
            self._log_failure(str(error))
        except BaseException:  # the greenlet was interrupted: the next call loads the file
            self._signature = None
            raise
        finally:
            self._is_loading = False

    def _load(self) -> None:
        try:
            with self.path.open("rb") as file:
                found = os.fstat(file.fileno())
                content = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be read: {error.strerror}") from None
        # Set before the content is parsed, so that a version that cannot be used is read once, not by every request. A
        # file that changed within the last tick of the clock may change again without a new signature.
        self._signature = None if dependencies.may_change_unnoticed(found) else dependencies.signature_of(found)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{self.path} is larger than {MAX_BYTES // 1024**2} MiB")
        if self.version == 0 or content != self._bytes:
            self._content = self._parse(content, self.path)
            self._bytes = content
            self.version += 1
            if self.version > 1:
                logger.info("%s was reloaded", self.path)
                self._on_reload(f"{self.path} was reloaded")
        self._failure = ""

    def _log_failure(self, sentence: str) -> None:
        if sentence != self._failure:
            logger.error("%s; the last usable version stays in force", sentence)
            self._failure = sentence
