"""Which paths of a store belong into its backup, and which wait for which."""

from __future__ import annotations

import re
from typing import Final

from docker_registry.errors import DigestInvalid
from docker_registry.registry import layout
from docker_registry.registry.names import Digest
from docker_registry.registry.v1 import image_layout
from docker_registry.registry.v1.layer_links import LayerLink

#: What belongs to one store or to one moment: the identity for caches, leases, probes, and uploads that go on. Without
#: its flag the index of private repositories is made anew at the next start, from the marks that were copied last.
_LEFT_OUT: Final = re.compile(
    rf"{layout.ROOT}/(_identity|_v1/private-is-complete|_leases/.*|_probes/.*|_uploads/.*|_restoring)"
    rf"|{layout.REPOSITORIES}/.*/_uploads/.*"
    rf"|{image_layout.IMAGES}/[^/]+/_received/.*"
)

#: Links whose path tells their content.
_DIGEST_LINK: Final = re.compile(r".*/(?:_layers|revisions|index)/([^/]+)/([^/]+)/link")

#: Files that say that something else is complete, so they are read before it and written after it.
FLAGS: Final = (layout.CATALOG_IS_WHOLE,)


def belongs(path: str) -> bool:
    """Tell whether a file is part of a backup."""
    return _LEFT_OUT.fullmatch(path) is None


def linked_digest(path: str) -> Digest | None:
    """Return the digest that the path of a layer's or revision's link tells; None for every other path."""
    match = _DIGEST_LINK.fullmatch(path)
    try:
        return Digest.parse(f"{match[1]}:{match[2]}") if match else None
    except DigestInvalid:
        return None


def blob_digest(path: str) -> Digest | None:
    """Return the digest of which a path holds the bytes, or says where they are; None for every other path."""
    parts = path.removeprefix(f"{layout.BLOBS}/").split("/")
    try:
        digest = Digest.parse(f"{parts[0]}:{parts[2]}") if len(parts) == 4 else None
    except DigestInvalid:
        return None
    names = (layout.blob_data(digest), layout.blob_alias(digest)) if digest is not None else ()
    return digest if path in names else None


def layer_digest(link: bytes) -> Digest | None:
    """Return the digest that the content of ``images/<id>/_blob`` names; None where it names none."""
    try:
        return LayerLink.parse(link).digest if link else None
    except ValueError:
        return None


def is_tag(path: str) -> bool:
    """Tell whether a file makes a tag of API V2."""
    return "/_manifests/tags/" in path and path.endswith("/current/link")


def is_flag(path: str) -> bool:
    """Tell whether a file says that something else is complete."""
    return path in FLAGS or path.endswith("/_manifests/tags-are-noted")


def rank(path: str) -> int:
    """
    Return when a file is written, smaller first, so that whatever is there has all that it names.

    Blobs come first, then what names them; tags of both APIs and flags come last.
    """
    if path.startswith(f"{layout.BLOBS}/"):
        return 0
    if path.startswith(f"{image_layout.IMAGES}/"):
        return 1 if path.endswith("/layer") else 3 if path.endswith("/json") else 2
    if is_flag(path):
        return 9
    if path.startswith(f"{image_layout.REPOSITORIES}/"):
        return 6 if path.endswith("/_private") else 8
    if is_tag(path):
        return 8
    if "/_manifests/" in path:
        return 5 if path.endswith("/link") else 4
    return 4
