"""
Keys of manifests that clients could read differently.

JSON decoders disagree about an object with a key twice, and Go's decoder also takes a key in another case, such as
``Manifests`` for ``manifests``. So one manifest could be an image to one client and an index to another
(CVE-2021-41190), or name a blob that the registry does not know of. New manifests with such keys are refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from docker_registry.errors import ManifestInvalid
from docker_registry.registry.json_scanner import reject_constant

_MAX_SHOWN_CHARACTERS: Final = 64


class RepeatedKeys(dict[str, Any]):
    """
    An object in which keys appear more than once; the last value counts.

    Attributes:
        repeated: these keys.
    """

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated = frozenset(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)


def _mark_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else RepeatedKeys(pairs)


#: Makes :class:`RepeatedKeys`; takes longer than :data:`.json_scanner.DECODER`.
MARKING_DECODER: Final = json.JSONDecoder(parse_constant=reject_constant, object_pairs_hook=_mark_repeated)


class KnownKeys:
    """The keys that the specification defines for one kind of object."""

    def __init__(self, kind: str, *keys: str) -> None:
        """
        Args:
            kind: the kind of object, for errors.
        """
        self._kind = kind
        self._keys = frozenset(keys)
        self._folded = frozenset(key.casefold() for key in keys)

    def check(self, item: object) -> None:
        """
        Check an object; any other value passes.

        Args:
            item: parsed by :data:`MARKING_DECODER`.

        Raises:
            ManifestInvalid: a known key appears twice, or in another case.
        """
        if not isinstance(item, dict) or (type(item) is dict and self._keys.issuperset(item)):
            return
        if not self._keys.issuperset(item):
            for key in item.keys() - self._keys:
                self._check_case(key)
        if isinstance(item, RepeatedKeys):
            for key in item.repeated & self._keys:
                raise self._repeated(key)

    def check_next(self, key: str, seen: set[str]) -> None:
        """
        Check one key of an object that is read member by member.

        Args:
            seen: known keys of the object that came before; the key is added.

        Raises:
            ManifestInvalid: as for :meth:`check`.
        """
        if key not in self._keys:
            self._check_case(key)
        elif key in seen:
            raise self._repeated(key)
        else:
            seen.add(key)

    def _repeated(self, key: str) -> ManifestInvalid:
        return ManifestInvalid(f"{self._kind} has a duplicate key.", key=key)

    def _check_case(self, key: str) -> None:
        if key.casefold() in self._folded:
            shown = key[:_MAX_SHOWN_CHARACTERS].encode("ascii", "backslashreplace").decode("ascii")
            raise ManifestInvalid(f"{self._kind} has a key whose case differs from the specification.", key=shown)


MANIFEST_KEYS: Final = KnownKeys(
    "The manifest",
    "schemaVersion",
    "mediaType",
    "artifactType",
    "config",
    "layers",
    "manifests",
    "subject",
    "annotations",
    "fsLayers",
    "signatures",
)
DESCRIPTOR_KEYS: Final = KnownKeys(
    "A descriptor", "mediaType", "digest", "size", "urls", "annotations", "data", "artifactType", "platform"
)
PLATFORM_KEYS: Final = KnownKeys("A platform", "architecture", "os", "os.version", "os.features", "variant", "features")

_LISTS: Final = ("layers", "manifests")
_OBJECTS: Final = ("config", "subject")


def check_manifest(document: dict[str, Any]) -> None:
    """
    Check a manifest and its descriptors.

    Raises:
        ManifestInvalid: a known key appears twice, or in another case.
    """
    MANIFEST_KEYS.check(document)
    for key in _OBJECTS:
        check_descriptor(document.get(key))
    for key in _LISTS:
        items = document.get(key)
        for item in items if isinstance(items, list) else ():
            check_descriptor(item)


def check_descriptor(item: object) -> None:
    """
    Check a descriptor and its platform; any other value passes.

    Raises:
        ManifestInvalid: as for :func:`check_manifest`.
    """
    if isinstance(item, dict):
        DESCRIPTOR_KEYS.check(item)
        if "platform" in item:
            PLATFORM_KEYS.check(item["platform"])
