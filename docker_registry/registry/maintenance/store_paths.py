"""The paths of a store that belong to a backup, and the order in which they are written."""

from __future__ import annotations

import re
from typing import Final

from docker_registry.errors import DigestInvalid
from docker_registry.registry import layout
from docker_registry.registry.names import Digest
from docker_registry.registry.v1 import image_layout
from docker_registry.registry.v1.layer_links import LayerLink

#: The folders of a store; a bucket, or the folder of a backup, may contain other ones.
_FOLDERS: Final = (f"{layout.ROOT}/", f"{layout.IMAGES}/", f"{layout.IMAGE_REPOSITORIES}/")

#: Files that are specific to one store or temporary: the identity for caches, leases, probes, unfinished uploads,
#: transfers from upstreams, notes about search indexes, and blobs that will be removed. Large files that are computed
#: again when they are needed: uncompressed copies of layers, and file lists and diffs of derived images.
#: The flags of the indexes of private repositories and of the repositories of images are excluded, so that the next
#: start rebuilds the indexes.
_EXCLUDED: Final = re.compile(
    rf"{layout.ROOT}/(_identity|_v1/(private-is|memberships-are)-complete|_leases/.*|_probes/.*|_uploads/.*|_transfers/.*)"
    rf"|{layout.ROOT}/(_restoring|_removed/.*|_search/.*)"
    rf"|({layout.UNPACKED}|{image_layout.UNPACKED_FROM})/.*|{image_layout.DERIVED}/[^/]+/_(filelist|changes).*"
    rf"|{layout.REPOSITORIES}/.*/_uploads/.*"
    rf"|{layout.IMAGES}/[^/]+/_received/.*"
)

#: The folders of what clients have pushed; a store that has none of them is empty.
CONTENT: Final = (layout.BLOBS, layout.REPOSITORIES, layout.IMAGES, layout.IMAGE_REPOSITORIES)

#: Links whose content follows from their path.
_DIGEST_LINK: Final = re.compile(r".*/(?:_layers|revisions|index)/([^/]+)/([^/]+)/link")

#: Files that mark other files as complete; they are read before those files and written after them.
FLAGS: Final = (layout.CATALOG_COMPLETE,)


def belongs(path: str) -> bool:
    """Return whether a file is part of a backup."""
    return path.startswith(_FOLDERS) and _EXCLUDED.fullmatch(path) is None


def is_secret(path: str) -> bool:
    """Return whether a file holds keys or tokens, which only the owner of a store may read."""
    return path.startswith(f"{layout.AUTH}/") or path == image_layout.TOKEN_KEY


def linked_digest(path: str) -> Digest | None:
    """Return the digest in the path of a link to a layer or revision; None for any other path."""
    match = _DIGEST_LINK.fullmatch(path)
    try:
        return Digest.parse(f"{match[1]}:{match[2]}") if match else None
    except DigestInvalid:
        return None


def blob_digest(path: str) -> Digest | None:
    """Return the digest of the blob whose bytes or alias are stored under a path; None for any other path."""
    parts = path.removeprefix(f"{layout.BLOBS}/").split("/")
    try:
        digest = Digest.parse(f"{parts[0]}:{parts[2]}") if len(parts) == 4 else None
    except DigestInvalid:
        return None
    names = (layout.blob_data(digest), layout.blob_alias(digest)) if digest is not None else ()
    return digest if path in names else None


def layer_digest(link: bytes) -> Digest | None:
    """Return the digest in the content of ``images/<id>/_blob``; None if it is invalid or empty."""
    try:
        return LayerLink.parse(link).digest if link else None
    except ValueError:
        return None


def is_tag(path: str) -> bool:
    """Return whether a file is the link of a V2 tag."""
    return "/_manifests/tags/" in path and path.endswith("/current/link")


def is_flag(path: str) -> bool:
    """Return whether a file marks other files as complete."""
    return path in FLAGS or path.endswith("/_manifests/tags-are-noted")


def rank(path: str) -> int:
    """
    Return the rank of a file in the order of writing, lowest first, so that no file ever references a missing one.

    Blobs come first, then the files that reference them; the tags of both APIs and flags come last.
    """
    if path.startswith(f"{layout.BLOBS}/"):
        return 0
    if path.startswith(f"{layout.IMAGES}/"):
        return 1 if path.endswith("/layer") else 3 if path.endswith("/json") else 2
    if is_flag(path):
        return 9
    if path.startswith(f"{layout.IMAGE_REPOSITORIES}/"):
        return 6 if path.endswith("/_private") else 8
    if is_tag(path):
        return 8
    if "/_manifests/" in path:
        return 5 if path.endswith("/link") else 4
    return 4
