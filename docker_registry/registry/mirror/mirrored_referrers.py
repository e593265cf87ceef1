"""
Referrers of upstreams, asked for once within the ttl of the upstream, and remembered for when it is away.

An upstream without the referrers API keeps the list under a tag ("Referrers Tag Schema"). Records of lists::

    docker/registry/v2/_mirror/docker.io+library+alpine/referrers/sha256-<hex>
    {"checked": 1767225600.0, "manifests": [{"mediaType": …, "digest": …, "size": …}]}
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from docker_registry.concurrency import KeyedLocks
from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import DigestInvalid, TagInvalid, UpstreamDenied, UpstreamError
from docker_registry.registry import json_scanner, layout
from docker_registry.registry.bounded_cache import BoundedCache
from docker_registry.registry.json_scanner import Kind
from docker_registry.registry.manifest_payload import OCI_INDEX
from docker_registry.registry.mirror.remotes import Remote, Remotes
from docker_registry.registry.mirror.responses import MAX_MANIFEST_BYTES
from docker_registry.registry.names import Digest, RepositoryName
from docker_registry.registry.referrers import fallback_tag
from docker_registry.resources.memory_budget import JsonBudget

#: Pages of one list that are read from an upstream.
MAX_PAGES: Final = 100

#: Memory for the lists of manifests that are not here.
_REMEMBERED_BYTES: Final = 1024 * 1024

Entries = dict[Digest, dict[str, Any]]


class MirroredReferrers:
    """A :class:`~docker_registry.registry.sources.ReferrerSource` of all upstreams."""

    def __init__(
        self, driver: StorageDriver, remotes: Remotes, json_budget: JsonBudget, now: Callable[[], float] = time.time
    ) -> None:
        """
        Args:
            json_budget: limits the memory and time for large lists.
            now: the clock, seconds since the Unix epoch.
        """
        self._driver = driver
        self._remotes = remotes
        self._json_budget = json_budget
        self._now = now
        self._locks = KeyedLocks()
        self._remembered: BoundedCache[tuple[str, str], bytes] = BoundedCache(_REMEMBERED_BYTES, len)

    def list(self, name: RepositoryName, subject: Digest) -> Mapping[Digest, dict[str, Any]]:
        """
        Return the descriptors of the referrers of a manifest.

        The last known ones are returned while the upstream cannot be asked, or allows only a few more pulls: where it
        lacks the referrers API, the request for its tag counts as a pull.

        Raises:
            UpstreamError: the upstream cannot be asked, or its answer is invalid, and none are known; or it denies
                access.
        """
        remote = self._remotes.find(name)
        if remote is None:
            return {}
        with self._locks.hold((str(name), subject)):
            checked, known = self._read_record(name, subject)
            is_fresh = 0 <= self._now() - checked < remote.upstream.ttl_seconds
            if known is not None and (is_fresh or remote.client.connection.is_nearly_limited):
                return known
            try:
                entries = self._ask(remote, subject)
            except UpstreamDenied:
                raise
            except UpstreamError:
                if known is None:
                    raise
                return known
            self._put_record(name, subject, entries)
            return entries

    # ------------------------------------------------------------------------------------------------- steps

    def _ask(self, remote: Remote, subject: Digest) -> Entries:
        path, entries, size, read = f"referrers/{subject}", Entries(), 0, set[str]()
        while path not in read and len(read) < MAX_PAGES:
            read.add(path)
            page = remote.client.get_page(remote.path, path, OCI_INDEX)
            if page is None and len(read) > 1:
                raise UpstreamError("The upstream registry does not have a page of its list of referrers.")
            if page is None:
                return self._ask_for_tag(remote, subject)
            size += len(page.payload)
            if size > MAX_MANIFEST_BYTES:
                break
            entries |= self._entries(page.payload)
            path = page.following
            if not path:
                return entries
        raise UpstreamError("The list of referrers at the upstream registry is too long.")

    def _ask_for_tag(self, remote: Remote, subject: Digest) -> Entries:
        """Return the list that clients of an upstream without the referrers API maintain."""
        try:
            manifest = remote.client.get_manifest(remote.path, fallback_tag(subject))
        except TagInvalid:
            return {}
        return {} if manifest is None else self._entries(manifest.payload)

    def _put_record(self, name: RepositoryName, subject: Digest, entries: Entries) -> None:
        """
        Remember a list: in the store, as long as the manifest, if that is here, else in memory.

        Clients may ask for the referrers of any number of digests.
        """
        record = json.dumps({"checked": self._now(), "manifests": list(entries.values())}).encode()
        if self._remotes.may_store and self._driver.has_file(layout.revision_link(name, subject)):
            self._driver.put_content(layout.mirrored_referrers(name, subject), record)
            self._remembered.forget((str(name), str(subject)))
        else:
            self._remembered.put((str(name), str(subject)), record)

    def _read_record(self, name: RepositoryName, subject: Digest) -> tuple[float, Entries | None]:
        content = self._remembered.get((str(name), str(subject)))
        content = content or self._driver.find(layout.mirrored_referrers(name, subject))
        if content is None:
            return 0.0, None
        try:
            with self._json_budget.reserve(content):
                parts = json_scanner.scan(content.decode())
                checked = next(float(part.value) for part in parts if part.key == "checked")
            return (checked, self._entries(content)) if math.isfinite(checked) else (0.0, None)
        except (ValueError, TypeError, OverflowError, StopIteration, UpstreamError):
            return 0.0, None

    def _entries(self, payload: bytes) -> Entries:
        """
        Return the valid descriptors in an index, by digest.

        Raises:
            UpstreamError: the payload is no index.
        """
        with self._json_budget.reserve(payload):
            try:
                return dict(_descriptors(self._json_budget.pace(json_scanner.scan(payload.decode()))))
            except (ValueError, RecursionError):
                raise UpstreamError("The list of referrers at the upstream registry is invalid.") from None


def _descriptors(parts: Iterator[json_scanner.Part]) -> Iterator[tuple[Digest, dict[str, Any]]]:
    for part in parts:
        item = part.value if part.key == "manifests" and part.kind is Kind.ITEM else None
        if not isinstance(item, dict) or not isinstance(item.get("size"), int):
            continue
        try:
            yield Digest.parse(str(item.get("digest"))), item
        except DigestInvalid:
            continue
