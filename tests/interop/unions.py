"""The file tree of a chain of layers, by the rules of unions (OCI image-spec, layer.md)."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Iterable, Mapping


def unpack(layer: bytes) -> bytes:
    """Return a layer without its compression."""
    if layer.startswith(b"\x1f\x8b"):
        return gzip.decompress(layer)
    if layer.startswith(b"BZh"):
        return bz2.decompress(layer)
    if layer.startswith(b"\xfd7zXZ"):
        return lzma.decompress(layer)
    return layer


def read_files(tar: bytes) -> dict[str, bytes]:
    """Return the regular files of a tar."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return {
            member.name.removeprefix("./"): archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in archive
            if member.isfile()
        }


def union(layers: Iterable[bytes]) -> Mapping[str, bytes]:
    """Return the combined files of layers, the base first."""
    tree: dict[str, bytes] = {}
    for layer in layers:
        files = read_files(unpack(layer))
        for name in files:
            folder, _, file = name.rpartition("/")
            if file == ".wh..wh..opq":
                _remove_below(tree, folder)
            elif file.startswith(".wh."):
                hidden = f"{folder}/{file[4:]}".lstrip("/")
                tree.pop(hidden, None)
                _remove_below(tree, hidden)
        tree |= {name: content for name, content in files.items() if not name.rpartition("/")[2].startswith(".wh.")}
    return tree


def _remove_below(tree: dict[str, bytes], folder: str) -> None:
    for name in [name for name in tree if name.startswith(f"{folder}/")]:
        del tree[name]
