"""
Every storage path of API V1, in the layout of docker-registry 0.7.1.

::

    images/<id>/
      json                          the bytes as pushed
      ancestry                      JSON list of ids, newest first
      layer                         the layer: a hard link to the blob where the store can, a raw file in old trees
      _checksum                     JSON list of checksums, in very old trees one bare string
      _inprogress                   exists while a push of this image is not finished
      _blob                       * what is known of the layer, and the blob that it is
      _pending/<digest>           * the JSON of a push, until its layer is there
      _received/<sum>-<upload>    * a layer that waits for its checksum in an upload session
      _filelist  _changes         * the answers of files and diff, or with _refused why there is none
      _manifest                   * the manifest that API V2 sees
      _private                    * the private repositories to which alone the image belongs
    repositories/<namespace>/<name>/
      _index_images                 JSON list [{"id", "checksum"?}]
      _images_list                  JSON list of the ids that an index gave
      _private                      exists when the repository is private
      json                          meta-data of the tag latest
      tag_<tag>                     the image id
      tag<tag>_json                 meta-data of the tag
    docker/registry/v2/_v1/
      token-key                   * with which tokens are signed
      derived/<id>/from-<sum>     * a manifest of API V2 that this image of V1 is a part of
      derived/<id>/image          * what is known of its layer
      derived/<id>/not-<hex>      * a blob that was found not to be its layer
      derived/<id>/_filelist …    * the same as beside an image that was pushed
      unpacked/<algorithm>/<hex>  * a layer of V2 as the plain tar that clients of V1 are sent; may be removed
      tops/<algorithm>/<hex>      * the newest image of V1 that a manifest of V2 is
      private/<name, + for />     * one empty file for each private repository
      private-layers/<algorithm>/<hex>   * the layer of a private image, or deleted from a private repository
      private-is-complete         * no private repository, and no layer, is missing there

What is marked ``*`` is ours; 0.7.1 ignores it, so it could go on with the tree. Its own caches ``_files`` and ``_diff``
are never read: they were wrong below the root folder.

**Quoting.** Slashes in a name are quoted: ``a/b/c`` is ``repositories/a/b%2Fc`` in 0.7.1, and ``b%252Fc`` in what
0.8.1 and later wrote. Both exist, so a name has up to two folders.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, unquote

from docker_registry.errors import NameInvalid
from docker_registry.registry.layout import HIDDEN, ROOT
from docker_registry.registry.names import Digest, ImageId, ImageRepositoryName, RepositoryName, Tag, is_tag

IMAGES: Final = "images"
REPOSITORIES: Final = "repositories"

TOKEN_KEY: Final = f"{ROOT}/_v1/token-key"
PRIVATE_REPOSITORIES: Final = f"{ROOT}/_v1/private"
PRIVATE_IS_COMPLETE: Final = f"{ROOT}/_v1/private-is-complete"
PRIVATE_LAYERS: Final = f"{ROOT}/_v1/private-layers"

_TAG: Final = "tag_"
_FROM: Final = "from-"


def image(image_id: ImageId) -> str:
    """The folder of an image."""
    return f"{f'{HIDDEN}/_images' if image_id.is_hidden else IMAGES}/{image_id}"


def image_json(image_id: ImageId) -> str:
    """The image's JSON as it was pushed."""
    return f"{image(image_id)}/json"


def ancestry(image_id: ImageId) -> str:
    """The ids of the image and of all below it."""
    return f"{image(image_id)}/ancestry"


def layer(image_id: ImageId) -> str:
    """The layer's bytes beside the image."""
    return f"{image(image_id)}/layer"


def checksum(image_id: ImageId) -> str:
    """The checksums that the layer has."""
    return f"{image(image_id)}/_checksum"


def in_progress(image_id: ImageId) -> str:
    """Says that a push of this image is not finished."""
    return f"{image(image_id)}/_inprogress"


def blob_link(image_id: ImageId) -> str:
    """What is known of the layer."""
    return f"{image(image_id)}/_blob"


def pending(image_id: ImageId) -> str:
    """The folder of the JSON of pushes that are not finished."""
    return f"{image(image_id)}/_pending"


def received(image_id: ImageId) -> str:
    """The folder of the layers that wait for their checksum."""
    return f"{image(image_id)}/_received"


def file_list(folder: str) -> str:
    """What is in the layer of the image of a folder."""
    return f"{folder}/_filelist"


def changes(folder: str) -> str:
    """What that layer does to those below it."""
    return f"{folder}/_changes"


def manifest(folder: str) -> str:
    """The manifest that API V2 sees of the image of a folder."""
    return f"{folder}/_manifest"


def derived(image_id: ImageId) -> str:
    """The folder of an image that was not pushed by API V1: it is a part of one of V2."""
    return f"{HIDDEN if image_id.is_hidden else ROOT}/_v1/derived/{image_id}"


def derived_image(image_id: ImageId) -> str:
    """What is known of its layer, once that was verified."""
    return f"{derived(image_id)}/image"


def derived_from(image_id: ImageId, name: RepositoryName, manifest_: Digest) -> str:
    """One of the manifests that it is a part of."""
    return f"{derived(image_id)}/{_FROM}{Digest.of(f'{name}@{manifest_}'.encode()).hex[:32]}"


def derived_refusal(image_id: ImageId, blob: Digest) -> str:
    """Says that a blob is not its layer."""
    return f"{derived(image_id)}/not-{blob.hex}"


def unpacked_layer(diff_id: Digest) -> str:
    """A layer of API V2 without its compression."""
    return f"{ROOT}/_v1/unpacked/{diff_id.algorithm}/{diff_id.hex}"


def is_derived_from(path: str) -> bool:
    """Tell whether a path is what :func:`derived_from` returns."""
    return path.rpartition("/")[2].startswith(_FROM)


def top(manifest_: Digest) -> str:
    """The newest image of V1 that a manifest of V2 is."""
    return f"{ROOT}/_v1/tops/{manifest_.algorithm}/{manifest_.hex}"


def private_image(image_id: ImageId) -> str:
    """The private repositories to which alone the image belongs."""
    return f"{image(image_id)}/_private"


def repository_folders(name: ImageRepositoryName) -> tuple[str, ...]:
    """Every folder in which a repository may lie, the one that 0.7.1 gives it first."""
    quoted = quote(name.name, safe="")
    folders = dict.fromkeys((quoted, quote(quoted, safe="")))
    root = f"{HIDDEN}/_repositories" if name.is_hidden else REPOSITORIES
    return tuple(f"{root}/{name.namespace}/{folder}" for folder in folders)


def read_repository_folder(path: str) -> ImageRepositoryName | None:
    """Return the name of the repository that lies in a folder; None for a folder that is none."""
    namespace, _, folder = path.removeprefix(f"{REPOSITORIES}/").partition("/")
    try:
        name = ImageRepositoryName.parse(f"{namespace}/{unquote(unquote(folder))}")
    except NameInvalid:
        return None
    return name if path in repository_folders(name) else None


def index_images(folder: str) -> str:
    """The images that were ever pushed to a repository."""
    return f"{folder}/_index_images"


def private(folder: str) -> str:
    """Says that a repository is private."""
    return f"{folder}/_private"


def repository_json(folder: str) -> str:
    """Who pushed the tag latest."""
    return f"{folder}/json"


def tag(folder: str, tag_: Tag) -> str:
    """The image that a tag names."""
    return f"{folder}/{_TAG}{tag_}"


def tag_json(folder: str, tag_: Tag) -> str | None:
    """
    Who pushed a tag; None where 0.7.1's path for that is another tag.

    ``tag_x_json`` is what the tag ``x_json`` names, and would be the meta-data of the tag ``_x``.
    """
    return None if str(tag_).startswith("_") else f"{folder}/tag{tag_}_json"


def read_tag(path: str) -> Tag | None:
    """Return the tag that a file in a repository's folder stands for; None for a file that stands for none."""
    file_name = path.rpartition("/")[2]
    text = file_name.removeprefix(_TAG)
    return Tag(text) if text != file_name and is_tag(text) else None


def private_entry(name: ImageRepositoryName) -> str:
    """Says that a repository is, or soon will be, private."""
    return f"{HIDDEN if name.is_hidden else PRIVATE_REPOSITORIES}/{str(name).replace('/', '+')}"


def private_layer(digest: Digest) -> str:
    """Says that a blob is the layer of a private image, or was deleted from a private repository."""
    return f"{PRIVATE_LAYERS}/{digest.algorithm}/{digest.hex}"


def read_private_entry(file_name: str) -> str | None:
    """Return the name of the private repository that a file stands for."""
    return file_name.replace("+", "/")
