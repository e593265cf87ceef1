"""The mirror of one registry for clients of API V1, by API V1 if it speaks that, else by API V2."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from docker_registry.concurrency import KeyedLocks
from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import UpstreamError
from docker_registry.registry import layout
from docker_registry.registry.bridge.derived_images import DerivedImages
from docker_registry.registry.mirror.challenge import parse_challenges
from docker_registry.registry.mirror.transfers import Transfers
from docker_registry.registry.mirror.upstream import Upstream
from docker_registry.registry.mirror.upstream_connection import UpstreamConnection
from docker_registry.registry.names import ImageId, ImageRepositoryName, Tag
from docker_registry.registry.oci_registry import OciRegistry
from docker_registry.registry.read_only import ReadOnly
from docker_registry.registry.search.index import Result
from docker_registry.registry.sources import Found
from docker_registry.registry.stored_file import ServedFile
from docker_registry.registry.v1.legacy_registry import LegacyRegistry
from docker_registry.registry.v1.sources import ImageQuery, Permitted, SourceImage, V1Source
from docker_registry.registry.v1_mirror.bridged_images import BridgedImages
from docker_registry.registry.v1_mirror.mirrored_images import MirroredImages
from docker_registry.registry.v1_mirror.records import Records
from docker_registry.registry.v1_mirror.source_client import SourceClient
from docker_registry.registry.v1_mirror.stored_images import StoredImages
from docker_registry.resources.memory_budget import MemoryBudget

logger = logging.getLogger(__name__)

#: What a registry of API V1 answers to a ping.
_PONGS: Final = frozenset({b"true", b'"true"', b"1"})
_MAX_PONG_BYTES: Final = 4096

#: The file with the API by which the registry was asked last, for when it is away.
_PROTOCOL: Final = f"{layout.MIRROR}/_v1/protocol"


class V1Mirror:
    """
    A :class:`~docker_registry.registry.v1.sources.V1Source` of a mirrored registry.

    Attributes:
        upstream: name of the registry as an upstream.
        stored_images: the images in the store that came from it by API V1.
    """

    def __init__(
        self,
        registry: OciRegistry,
        legacy: LegacyRegistry,
        derived: DerivedImages,
        source: UpstreamConnection,
        index: Upstream | None,
        transfers: Transfers,
        *,
        user_agent: str,
        via: Callable[[], str],
        memory: MemoryBudget,
        read_only: ReadOnly,
        tags_ttl_seconds: float,
        is_offline: bool = False,
        is_mirrored: Callable[[str], bool] = lambda _: False,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Append the mirror to the sources of a registry of API V1.

        Args:
            derived: the images that the bridge derives from API V2.
            source: the connection to the mirrored registry, which *registry* also mirrors by API V2.
            index: its index; None if it is its own.
            transfers: those of *registry*, which are closed with its mirror.
            user_agent: what it is told about this server.
            via: returns the name of this registry in Via headers; the same on all its hosts.
            memory: budget for answers that are being received.
            read_only: while writes are refused, nothing is fetched.
            tags_ttl_seconds: how long lists of API V1 are served before it is asked again.
            is_offline: never ask it.
            is_mirrored: returns whether a name is that of a repository which mirrors another one by API V2.
            now: the clock, seconds since the Unix epoch.
        """
        self.upstream = source.upstream.name
        self._read_only = read_only
        self._driver: StorageDriver = registry.driver
        self._source = source.upstream
        self._connection = source
        self._derived = derived
        self._is_mirrored = is_mirrored
        self._index = None
        if index is not None:
            credentials = source.credentials_for(index)
            self._index = UpstreamConnection(
                index, credentials, memory, user_agent=user_agent, via=via, is_offline=is_offline
            )
        records = Records(registry.driver, legacy.images.find_committed)
        self.stored_images = StoredImages(registry, legacy, records, now)
        self._by_v1 = MirroredImages(
            SourceClient(source, self._index or source),
            records,
            legacy.images,
            legacy.image_pushes,
            transfers,
            registry.json_budget,
            read_only,
            legacy.image_memberships,
            ttl_seconds=tags_ttl_seconds,
            now=now,
        )
        self._by_v2 = BridgedImages(registry, derived, source.upstream.name, read_only)
        self._chosen: V1Source | None = None
        self._locks = KeyedLocks()
        legacy.sources.append(self)

    def close(self) -> None:
        """Close the connections to the index."""
        if self._index is not None:
            self._index.close()

    def tags(self, name: ImageRepositoryName, permitted: Permitted | None = None) -> Found[Mapping[str, str]] | None:
        """See :class:`~docker_registry.registry.v1.sources.V1Source`."""
        return None if self._is_mirrored(str(name)) else self._choose().tags(name, permitted)

    def tag(self, name: ImageRepositoryName, tag: Tag, permitted: Permitted | None = None) -> Found[ImageId] | None:
        """See :class:`~docker_registry.registry.v1.sources.V1Source`."""
        return None if self._is_mirrored(str(name)) else self._choose().tag(name, tag, permitted)

    def images(self, name: ImageRepositoryName, permitted: Permitted | None = None) -> Found[bytes] | None:
        """See :class:`~docker_registry.registry.v1.sources.V1Source`."""
        return None if self._is_mirrored(str(name)) else self._choose().images(name, permitted)

    def image(self, query: ImageQuery) -> Found[SourceImage] | None:
        """See :class:`~docker_registry.registry.v1.sources.V1Source`."""
        return self._choose().image(query)

    def fetch(self, query: ImageQuery) -> bool:
        """See :class:`~docker_registry.registry.v1.sources.V1Source`."""
        return self._choose().fetch(query)

    def arriving_size(self, query: ImageQuery) -> int | None:
        """See :class:`~docker_registry.registry.v1.sources.V1Source`."""
        return self._choose().arriving_size(query)

    def layer(self, query: ImageQuery) -> Found[ServedFile] | None:
        """See :class:`~docker_registry.registry.v1.sources.V1Source`."""
        return self._choose().layer(query)

    def pull_links(self, image_id: ImageId) -> Iterator[str]:
        """Yield the files of the store whose modification times are those of the last pull of an image."""
        yield self.stored_images.path(image_id)
        yield from self._derived.links(image_id, self._is_mirrored)

    def search(self, text: str, size: int) -> list[Result]:
        """Return repositories of the mirrored registry whose names contain a text; none while it cannot be asked."""
        return self._by_v1.search(text, size)

    def check(self) -> None:
        """
        Ask the registry by which API it can be mirrored.

        Raises:
            UpstreamError: it does not answer, or speaks neither API.
        """
        self._ask_for_protocol()

    # ------------------------------------------------------------------------------------------------- steps

    def _choose(self) -> V1Source:
        """
        Return the part that speaks the API of the registry, after asking the registry for it once.

        Raises:
            UpstreamError: the registry cannot be asked and was never asked, or it speaks neither API.
        """
        if self._chosen is None:
            with self._locks.hold("protocol"):
                if self._chosen is None:
                    return self._detect()
        return self._chosen

    def _detect(self) -> V1Source:
        recorded = (self._driver.find(_PROTOCOL) or b"").decode("utf-8", "replace").partition(" ")
        try:
            protocol = self._ask_for_protocol()
        except UpstreamError:
            if recorded[2] != self._source.url:
                raise
            return self._by_v1 if recorded[0] == "v1" else self._by_v2
        if (protocol, self._source.url) != recorded[::2] and not self._read_only.is_on:
            self._driver.put_content(_PROTOCOL, f"{protocol} {self._source.url}".encode())
        logger.info("the registry %s is mirrored by API %s", self._source.url, protocol.upper())
        self._chosen = self._by_v1 if protocol == "v1" else self._by_v2
        return self._chosen

    def _ask_for_protocol(self) -> str:
        """
        Return ``v1`` or ``v2``.

        Raises:
            UpstreamError: as for :meth:`check`.
        """
        protocol = "v1" if self._speaks_v1() else "v2" if self._speaks_v2() else ""
        if not protocol:
            raise UpstreamError("The mirrored registry speaks neither API V1 nor V2.", upstream=self._source.name)
        return protocol

    def _speaks_v1(self) -> bool:
        connection = self._connection
        login = connection.login()
        headers = {} if login is None else {"Authorization": login}
        response = connection.send("GET", "v1/_ping", headers, {200, 400, 401, 403, 405, 410})
        if response is None or response.status_code != 200:
            if response is not None:
                response.close()
            return False
        try:
            return connection.read(response, _MAX_PONG_BYTES).strip() in _PONGS
        except UpstreamError:
            return False

    def _speaks_v2(self) -> bool:
        response = self._connection.send("GET", "v2/", {}, {200, 401})
        if response is None:
            return False
        response.close()
        challenges = parse_challenges(response.headers.get("WWW-Authenticate", ""))
        asks_for_token = response.status_code == 401 and any(each.scheme == "bearer" for each in challenges)
        return asks_for_token or "Docker-Distribution-Api-Version" in response.headers
