"""
The storage paths of API V1 that the registry reads also where V1 is not served.

::

    images/<id>/
      _blob                       * digest of the layer, in a JSON document
    repositories/<namespace>/<name>/
      _private                      exists when the repository is private
    docker/registry/v2/_v1/
      private/<name, + for />     * one empty file for each private repository
      private-layers/<algorithm>/<hex>   * the layer of a private image, or deleted from a private repository
      private-is-complete         * marks that private and private-layers are complete

A registry that does not serve API V1 must not expose private repositories or remove layers either. All
other paths of API V1 are in :mod:`docker_registry.registry.v1.image_layout`. Entries marked ``*`` are extensions of
this registry.

**Quoting.** Slashes in a name are quoted: ``a/b/c`` is stored as ``repositories/a/b%2Fc`` by 0.7.1, and as ``b%252Fc``
by 0.8.1 and later. Both forms exist, so a name has up to two folders.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, unquote

from docker_registry.errors import NameInvalid
from docker_registry.registry.layout import HIDDEN, ROOT, flat_name
from docker_registry.registry.names import Digest, ImageRepositoryName

REPOSITORIES: Final = "repositories"
IMAGES: Final = "images"

PRIVATE_REPOSITORIES: Final = f"{ROOT}/_v1/private"
PRIVATE_IS_COMPLETE: Final = f"{ROOT}/_v1/private-is-complete"
PRIVATE_LAYERS: Final = f"{ROOT}/_v1/private-layers"


def repository_folders(name: ImageRepositoryName) -> tuple[str, ...]:
    """Return the possible folders of a repository, that of 0.7.1 first."""
    root = f"{HIDDEN}/_repositories" if name.is_hidden else REPOSITORIES
    if "/" not in name.name:  # no other character of a name is quoted
        return (f"{root}/{name.namespace}/{name.name}",)
    quoted = quote(name.name, safe="")
    folders = (quoted, quote(quoted, safe=""))
    return tuple(f"{root}/{name.namespace}/{folder}" for folder in folders)


def read_repository_folder(path: str) -> ImageRepositoryName | None:
    """Return the name of the repository in a folder; None for any other folder."""
    namespace, _, folder = path.removeprefix(f"{REPOSITORIES}/").partition("/")
    try:
        name = ImageRepositoryName.parse(f"{namespace}/{unquote(unquote(folder))}")
    except NameInvalid:
        return None
    return name if path in repository_folders(name) else None


def layer_link(folder: str) -> str:
    """The file that links an image to the blob of its layer."""
    return f"{folder}/_blob"


def private(folder: str) -> str:
    """The file that marks that a repository is private."""
    return f"{folder}/_private"


def private_entry(name: ImageRepositoryName) -> str:
    """The file that lists a private repository, written and removed after its file ``_private``."""
    return f"{HIDDEN if name.is_hidden else PRIVATE_REPOSITORIES}/{flat_name(name)}"


def read_private_entry(file_name: str) -> str | None:
    """Return the name of the private repository that a file stands for; None for a file of another kind."""
    name = file_name.replace("+", "/")
    try:
        ImageRepositoryName.parse(name)
    except NameInvalid:
        return None
    return name


def private_layer(digest: Digest) -> str:
    """The file that marks a blob as the layer of a private image, or as deleted from a private repository."""
    return f"{PRIVATE_LAYERS}/{digest.algorithm}/{digest.hex}"
