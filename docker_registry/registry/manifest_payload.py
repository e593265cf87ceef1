"""
Parsing of manifest payloads: the media type, and the descriptors of the referenced content.

Sources: OCI image-spec, manifest.md and image-index.md; Docker "Image Manifest Version 2, Schema 2". Payloads are
never rewritten: the registry serves exactly the bytes that were pushed.

A payload of up to 64 KiB is parsed in one go. A larger one is scanned part by part
(:mod:`docker_registry.registry.json_scanner`), keeping only the members that the registry needs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from docker_registry.errors import DigestInvalid, ManifestInvalid
from docker_registry.registry import json_scanner, manifest_keys
from docker_registry.registry.json_scanner import Kind, Part, TooComplex
from docker_registry.registry.names import Descriptor, Digest
from docker_registry.resources.memory_budget import LARGE_JSON_BYTES

DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
SCHEMA_1: Final = "application/vnd.docker.distribution.manifest.v1+json"
SCHEMA_1_SIGNED: Final = "application/vnd.docker.distribution.manifest.v1+prettyjws"

IMAGES: Final = frozenset({DOCKER_MANIFEST, OCI_MANIFEST})
INDEXES: Final = frozenset({DOCKER_LIST, OCI_INDEX})

#: The media types of manifests that clients list in Accept.
MANIFEST_TYPES: Final = IMAGES | INDEXES | {SCHEMA_1, SCHEMA_1_SIGNED}

#: Media types of layers that clients download from elsewhere, and that need not be in the registry.
FOREIGN_LAYERS: Final = frozenset(
    {
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    }
)

#: A media type without parameters (RFC 6838, section 4.2): no blanks, control characters or non-ASCII letters.
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9!#$&\-^_.+]{0,126}"
_MEDIA_TYPE: Final = re.compile(f"{_NAME}/{_NAME}")

#: Media types that browsers may render as a page, as an image with scripts, or as a document that can embed either.
_ACTIVE: Final = re.compile(
    r"(?!application/).*|application/(xml|xml-.*|.*\+xml|(x-)?(java|ecma)script|pdf)", re.IGNORECASE
)

#: A media type that clients save and never display.
OPAQUE: Final = "application/octet-stream"

#: Maximum characters of a media type or artifact type (RFC 6838, section 4.2: 127 each for type and subtype, a slash).
MAX_TYPE_CHARACTERS: Final = 255

#: Wraps the parts of a large payload so that a loop over them yields to other requests.
Pace = Callable[[Iterable[Part]], Iterator[Part]]

#: Lists of references to other content; the last is that of schema 1.
_REFERENCE_LISTS: Final = frozenset({"layers", "manifests", "fsLayers"})

#: Members that are kept of a large payload.
_KEPT_LISTS: Final = frozenset({"manifests", "layers"})
_KEPT_OBJECTS: Final = frozenset({"config", "subject", "annotations"})
_KEPT: Final = _KEPT_LISTS | _KEPT_OBJECTS | {"schemaVersion", "mediaType", "artifactType", "signatures"}


@dataclass(frozen=True, slots=True)
class Payload:
    """
    The parsed content of a manifest.

    Attributes:
        media_type: media type of the manifest.
        is_inferable: whether the media type follows from the payload alone, and the payload is small enough to parse
            it again at each GET.
        inferred_type: the media type that follows from the payload alone; that of an OCI image if none does.
        has_media_type: whether the payload has a valid ``mediaType``.
        blobs: the config and the layers that must exist in the repository.
        manifests: the children of an index.
        subject: descriptor of the subject; None for a manifest that is not a referrer.
        artifact_type: ``artifactType``, or without it the media type of the config.
        annotations: the annotations with text values; None when the payload has none.
    """

    media_type: str
    is_inferable: bool
    blobs: tuple[Descriptor, ...] = ()
    manifests: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    artifact_type: str | None = None
    annotations: dict[str, str] | None = None
    inferred_type: str = OCI_MANIFEST
    has_media_type: bool = False


def read(payload: bytes, content_type: str | None, pace: Pace = iter, *, is_stored: bool = False) -> Payload:
    """
    Parse and validate a pushed payload.

    Args:
        content_type: the Content-Type of the request, without parameters.
        pace: wraps the parts of a large payload, to yield to other requests.
        is_stored: skip the limit on the number of JSON values and the check of keys, for payloads that earlier versions
            accepted.

    Raises:
        ManifestInvalid: the payload is not JSON, contradicts its Content-Type, is of schema 1, has an invalid
            descriptor, has more values than :data:`json_scanner.MAX_VALUES`, or has keys that clients read differently
            (:mod:`docker_registry.registry.manifest_keys`).
    """
    is_checked = len(payload) > LARGE_JSON_BYTES and not is_stored
    if is_checked and json_scanner.count_values(payload) > json_scanner.MAX_VALUES:
        raise ManifestInvalid("The manifest has too many JSON values.", max_values=json_scanner.MAX_VALUES)
    document = _load(payload, pace, is_stored=is_stored)
    media_type = _media_type(document, content_type)
    kind = media_type.lower()
    if kind in IMAGES | INDEXES and document.get("schemaVersion") != 2:
        raise ManifestInvalid("schemaVersion must be 2.", schemaVersion=_short(document.get("schemaVersion")))
    # Clients could disagree on whether an ambiguous document is an image or an index (CVE-2021-41190).
    for key in ("manifests",) if kind in IMAGES else ("config", "layers") if kind in INDEXES else ():
        if key in document:
            raise ManifestInvalid(f"A manifest of this type has no {key}.", mediaType=media_type)
    config = [_descriptor(document["config"], "config")] if "config" in document else []
    layers = [item for item in _descriptors(document, "layers") if item.media_type.lower() not in FOREIGN_LAYERS]
    if kind in IMAGES and not config:
        raise ManifestInvalid("The manifest has no config.", mediaType=media_type)
    has_media_type = bool(document.get("mediaType"))  # and it is valid
    inferred_type = document["mediaType"] if has_media_type else infer_media_type(document)
    return Payload(
        media_type=media_type,
        is_inferable=len(payload) <= LARGE_JSON_BYTES and media_type == inferred_type,
        blobs=(*config, *layers),
        manifests=tuple(_descriptors(document, "manifests")),
        subject=_descriptor(document["subject"], "subject") if document.get("subject") is not None else None,
        artifact_type=_text(document, "artifactType") or (config[0].media_type or None if config else None),
        annotations=_annotations(document),
        inferred_type=inferred_type or OCI_MANIFEST,
        has_media_type=has_media_type,
    )


def stored_media_type(payload: bytes, pace: Pace = iter) -> tuple[str | None, bool]:
    """
    Return the media type that follows from a stored payload alone.

    Args:
        pace: as for :func:`read`.

    Returns:
        The media type, None if the payload does not determine one; and whether ``mediaType`` states it explicitly.
    """
    try:
        document = _load(payload, pace, with_descriptors=False)
    except ManifestInvalid:
        return None, False
    return infer_media_type(document), _states_media_type(document)


def references(payload: bytes, pace: Pace = iter) -> tuple[Digest, ...]:
    """
    Return the digests that a stored manifest references: configuration, layers and children, but not its subject.

    The parsing is lenient, because other servers may have stored the manifest: schema 1 is supported, and invalid
    entries are skipped. If the payload is not JSON, the result is what precedes the error.

    Args:
        pace: wraps the parts of the payload, to yield to other requests.
    """
    found = []
    with suppress(ValueError, RecursionError):
        for part in pace(json_scanner.scan(payload.decode())):
            text = part.value if (part.key, part.name) == ("config", "digest") else None
            if part.kind is Kind.ITEM and part.key in _REFERENCE_LISTS and isinstance(part.value, dict):
                text = part.value.get("digest") or part.value.get("blobSum")
            if isinstance(text, str):
                with suppress(DigestInvalid):
                    found.append(Digest.parse(text))
    return tuple(found)


def infer_media_type(document: dict[str, Any]) -> str | None:
    """
    Infer the media type from a payload, by the rules of distribution, which does not store the media type separately.

    A valid ``mediaType`` takes precedence. Without it, ``schemaVersion`` 1 means a schema 1 manifest (signed, if it has
    ``signatures``), ``manifests`` means an OCI index and ``config`` an OCI image. Otherwise the result is None.
    """
    if _states_media_type(document):
        return str(document["mediaType"])
    if document.get("schemaVersion") == 1:
        return SCHEMA_1_SIGNED if "signatures" in document else SCHEMA_1
    if "manifests" in document:
        return OCI_INDEX
    if "config" in document:
        return OCI_MANIFEST
    return None


def _states_media_type(document: dict[str, Any]) -> bool:
    """Return whether ``mediaType`` is a valid media type; earlier versions accepted any text."""
    media_type = document.get("mediaType")
    return isinstance(media_type, str) and _is_media_type(media_type)


def _is_media_type(text: str) -> bool:
    """Return whether a text is a media type without parameters."""
    return _MEDIA_TYPE.fullmatch(text) is not None


def safe_content_type(media_type: str) -> str:
    """
    Return a Content-Type that is safe for content pushed by clients.

    Returns:
        *media_type*, or :data:`OPAQUE` if it is invalid or a browser might execute or display it: pushed content must
        not be rendered as a page of this site.
    """
    return media_type if _is_media_type(media_type) and not _ACTIVE.fullmatch(media_type) else OPAQUE


def _load(payload: bytes, pace: Pace, *, with_descriptors: bool = True, is_stored: bool = True) -> dict[str, Any]:
    is_large = len(payload) > LARGE_JSON_BYTES
    try:
        text = payload.decode("utf-8")
        if is_large:
            document = _load_parts(text, pace, with_descriptors=with_descriptors, is_stored=is_stored)
        else:
            document = _decoder(is_stored).decode(text)
    except TooComplex:
        raise ManifestInvalid(
            "A part of the manifest has too many JSON values.", max_values=json_scanner.MAX_PART_VALUES
        ) from None
    except (ValueError, RecursionError):  # not UTF-8, not JSON, nested too deeply, or a number with too many digits
        raise ManifestInvalid("The manifest is not JSON.") from None
    if not isinstance(document, dict):
        raise ManifestInvalid("The manifest is not a JSON object.")
    if not is_stored and not is_large:
        manifest_keys.check_manifest(document)
    return document


def _load_parts(text: str, pace: Pace, *, with_descriptors: bool, is_stored: bool) -> dict[str, Any]:
    """Load the needed members of a large payload; items of descriptor lists are converted to `Descriptor` at once."""
    document: dict[str, Any] = {}
    parts = json_scanner.scan(text, _decoder(is_stored))
    for key, kind, name, value in pace(parts if is_stored else _checked(parts)):
        if key not in _KEPT:
            continue
        if kind is Kind.ITEM:
            if with_descriptors and key in _KEPT_LISTS and isinstance(document[key], list):
                document[key].append(_descriptor(value, key))
            elif key in _KEPT_OBJECTS and isinstance(document[key], dict):
                document[key][name] = value
        elif kind is Kind.VALUE:
            document[key] = value
        else:
            document[key] = [] if kind is Kind.LIST else {}
    return document


def _checked(parts: Iterable[Part]) -> Iterator[Part]:
    """Check the keys of a large payload, as :func:`manifest_keys.check_manifest` does for a small one."""
    members: set[str] = set()
    descriptor_members: dict[str, set[str]] = {"config": set(), "subject": set()}
    for part in parts:
        if part.kind is not Kind.ITEM:
            manifest_keys.MANIFEST_KEYS.check_next(part.key, members)
        elif part.key in _KEPT_LISTS:
            manifest_keys.check_descriptor(part.value)
        elif part.key in descriptor_members:
            manifest_keys.DESCRIPTOR_KEYS.check_next(part.name, descriptor_members[part.key])
            manifest_keys.check_descriptor({part.name: part.value})
        yield part


def _decoder(is_stored: bool) -> json.JSONDecoder:
    """Return the decoder of a payload: only that of a pushed one marks repeated keys, to be refused."""
    return json_scanner.DECODER if is_stored else manifest_keys.MARKING_DECODER


def _media_type(document: dict[str, Any], content_type: str | None) -> str:
    own = _text(document, "mediaType")
    for given in dict.fromkeys(filter(None, (own, content_type))):  # usually both are the same
        if not _is_media_type(given):
            raise ManifestInvalid("The media type is invalid (RFC 6838, section 4.2).", mediaType=_printable(given))
    if own and content_type and own.lower() != content_type.lower():
        raise ManifestInvalid("mediaType and Content-Type disagree.", mediaType=own, contentType=content_type)
    media_type = own or content_type or infer_media_type(document)
    if not media_type:
        raise ManifestInvalid("The media type of the manifest is missing in both Content-Type and mediaType.")
    if media_type.lower() in {SCHEMA_1, SCHEMA_1_SIGNED} or document.get("schemaVersion") == 1:
        raise ManifestInvalid("Manifests of schema 1 are not accepted; this client is too old for API V2.")
    return media_type


def _text(document: dict[str, Any], key: str) -> str | None:
    value = document.get(key)
    if value is not None and not _is_text(value):
        raise ManifestInvalid(f"{key} must be a string.")
    if value is not None and len(value) > MAX_TYPE_CHARACTERS:
        raise ManifestInvalid(f"{key} is too long.", max_characters=MAX_TYPE_CHARACTERS)
    return value


def _annotations(document: dict[str, Any]) -> dict[str, str] | None:
    value = document.get("annotations")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ManifestInvalid("annotations must be an object.")
    for key, text in value.items():
        # Go decodes null into a string as "", and some clients write null for an empty value.
        if not _is_text(key) or not (text is None or _is_text(text)):
            raise ManifestInvalid("The values of annotations must be strings.", annotation=_printable(key))
    return {key: text for key, text in value.items() if text is not None}


def text_annotations(annotations: object) -> dict[str, str]:
    """Return the annotations with text values, as the specification demands; earlier versions accepted any value."""
    members = annotations.items() if isinstance(annotations, dict) else ()
    return {key: value for key, value in members if _is_text(key) and _is_text(value)}


def _is_text(value: object) -> bool:
    """Return whether a value is a string that UTF-8 can encode; JSON can escape a lone surrogate."""
    try:
        return isinstance(value, str) and bool(value.encode() or True)
    except UnicodeEncodeError:
        return False


def _printable(text: str) -> str:
    """Return the beginning of a client's text in ASCII, for an error message."""
    return text[:256].encode("ascii", "backslashreplace").decode("ascii")


def _descriptors(document: dict[str, Any], key: str) -> list[Descriptor]:
    items = document.get(key)
    if items is None:
        return []
    if not isinstance(items, list):
        raise ManifestInvalid(f"{key} must be a list.")
    return [_descriptor(item, key) for item in items]


def _descriptor(item: object, key: str) -> Descriptor:
    if isinstance(item, Descriptor):
        return item
    if not isinstance(item, dict):
        raise ManifestInvalid(f"{key} must hold descriptors.")
    media_type, digest, size = item.get("mediaType", ""), item.get("digest"), item.get("size", 0)
    if not isinstance(digest, str) or not isinstance(media_type, str) or not _is_text(media_type):
        raise ManifestInvalid(f"A descriptor in {key} lacks its digest or mediaType.")
    if len(media_type) > MAX_TYPE_CHARACTERS:
        raise ManifestInvalid(f"A descriptor in {key} has a mediaType that is too long.", digest=digest[:256])
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ManifestInvalid(f"A descriptor in {key} has an invalid size.", digest=digest[:256])
    try:
        return Descriptor(media_type, Digest.parse(digest), size)
    except DigestInvalid:
        raise ManifestInvalid(f"A descriptor in {key} has an invalid digest.", digest=digest[:256]) from None


def _short(value: object) -> object:
    return value if isinstance(value, (int, type(None))) else str(value)[:64]
