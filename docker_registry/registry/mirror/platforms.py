"""
The platforms for which images of an upstream are fetched.

An index is stored as it is, whatever its platforms. The platform of each of its manifests is recorded, so that a
manifest that a client requests by its digest can be refused before it is fetched::

    docker/registry/v2/_mirror/docker.io+library+alpine/platforms/sha256-<hex>    linux/arm64/v8

A manifest that an index names for several platforms has a line for each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import ConfigError, DigestInvalid, ManifestUnknown
from docker_registry.registry import json_scanner, layout
from docker_registry.registry.json_scanner import Kind
from docker_registry.registry.names import Digest, RepositoryName
from docker_registry.resources.memory_budget import JsonBudget

_PLATFORM: Final = re.compile(r"[a-z0-9]{1,32}/[a-z0-9_]{1,32}(?:/[a-z0-9.]{1,32})?")

#: The platform of manifests that describe another one, and the annotation with its digest (BuildKit, attestations).
_UNKNOWN: Final = "unknown/unknown"
DESCRIBED: Final = "vnd.docker.reference.digest"


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system, an architecture, and optionally a variant of it, such as ``linux/arm/v7``."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Platform:
        """
        Parse ``OS/ARCHITECTURE`` or ``OS/ARCHITECTURE/VARIANT``.

        Raises:
            ValueError: the text is something else.
        """
        if not _PLATFORM.fullmatch(text):
            raise ValueError("is not OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT")
        # As clients do: arm64 has one variant, which is often left out.
        return cls(text.removesuffix("/v8") if text.endswith("/arm64/v8") else text)

    def includes(self, other: Platform) -> bool:
        """Return whether another platform is this one, or a variant of it."""
        return f"{other.text}/".startswith(f"{self.text}/")


def platform_of(descriptor: Mapping[str, Any]) -> Platform | None:
    """Return the platform in a descriptor of an index; None if it has no valid one."""
    platform = descriptor.get("platform")
    if not isinstance(platform, dict):
        return None
    parts = [platform.get(key) for key in ("os", "architecture", "variant")]
    try:
        return Platform.parse("/".join(str(part) for part in parts if part))
    except ValueError:
        return None


def parse_platforms(place: str, texts: Iterable[str]) -> tuple[Platform, ...]:
    """
    Parse configured platforms.

    Args:
        place: beginning of the message.

    Raises:
        ConfigError: one is invalid.
    """
    try:
        return tuple(map(Platform.parse, texts))
    except ValueError as error:
        raise ConfigError(f"{place} a platform {error}") from None


class PlatformRecords:
    """The platforms of the manifests that indexes name."""

    def __init__(self, driver: StorageDriver, json_budget: JsonBudget) -> None:
        """
        Args:
            json_budget: limits the memory and time for large indexes.
        """
        self._driver = driver
        self._json_budget = json_budget

    def put(self, name: RepositoryName, index: bytes) -> None:
        """Record the platforms of the manifests in an index; does nothing for a manifest."""
        platforms = dict(self._read(index))
        with self._driver.batch():
            for digest, platform in self._json_budget.pace(platforms.items()):
                self._driver.put_content(layout.mirrored_platform(name, digest), platform.encode())

    def check(self, name: RepositoryName, digest: Digest, platforms: Iterable[Platform]) -> None:
        """
        Check that a manifest may be fetched.

        Args:
            platforms: those for which images are fetched.

        Raises:
            ManifestUnknown: it is known to be for another platform.
        """
        recorded = (self._driver.find(layout.mirrored_platform(name, digest)) or b"").decode("utf-8", "replace")
        try:
            known = tuple(map(Platform.parse, recorded.split("\n")))
        except ValueError:
            return
        if not any(each.includes(platform) for each in platforms for platform in known):
            raise ManifestUnknown("This registry does not mirror the platform of the image.", platform=known[0].text)

    def _read(self, index: bytes) -> Iterator[tuple[Digest, str]]:
        described: dict[Digest, Any] = {}
        platforms: dict[Digest, dict[str, None]] = {}
        with self._json_budget.reserve(index):
            for part in self._json_budget.pace(json_scanner.scan(index.decode())):
                if part.key != "manifests" or part.kind is not Kind.ITEM or not isinstance(part.value, dict):
                    continue
                digest, platform = _digest(part.value.get("digest")), platform_of(part.value)
                if digest is None or platform is None:
                    continue
                if platform.text == _UNKNOWN:
                    annotations = part.value.get("annotations")
                    described[digest] = annotations.get(DESCRIBED) if isinstance(annotations, dict) else None
                else:
                    platforms.setdefault(digest, {})[platform.text] = None
        for digest, of_image in platforms.items():
            yield digest, "\n".join(of_image)
        for digest, image in described.items():
            if texts := platforms.get(_digest(image) or digest):
                yield digest, "\n".join(texts)


def _digest(value: object) -> Digest | None:
    try:
        return Digest.parse(str(value))
    except DigestInvalid:
        return None
