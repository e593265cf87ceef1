"""
The storage paths of API V1, in the layout of docker-registry 0.7.1.

::

    images/<id>/
      json                          the bytes as pushed
      ancestry                      JSON list of ids, newest first
      layer                         the layer: a hard link to the blob if the store has links; a raw file in old trees
      _checksum                     JSON list of checksums; in very old trees a single bare string
      _inprogress                   exists while a push of this image is not finished
      _blob                       * digests of the layer and the JSON, and where they came from (layer_links)
      _pending/<digest>           * the JSON of a push, until its layer has arrived
      _received/<sum>-<upload>    * a layer in an upload session that waits for its checksum
      _filelist  _changes         * cached responses of files and diff; with _refused the reason why there is none
      _manifest                   * digest of the manifest that API V2 sees
      _private                    * exists when only private repositories have the image
    repositories/<namespace>/<name>/
      _index_images                 JSON list [{"id", "checksum"?}]
      _images_list                  JSON list of the ids that an index provided
      _private                      exists when the repository is private
      json                          metadata of the tag latest
      tag_<tag>                     the image id
      tag<tag>_json                 metadata of the tag
    docker/registry/v2/_v1/
      token-key                   * the key that signs tokens
      derived/<id>/from-<sum>     * a V2 manifest that contains this derived V1 image
      derived/<id>/image          * the derived image with its verified layer
      derived/<id>/not-<hex>      * a blob that was found not to be its layer
      derived/<id>/_filelist …    * the same files as for a pushed image
      unpacked/<algorithm>/<hex>  * an uncompressed V2 layer, as it is sent to clients of V1; may be removed
      unpacked-from/<algorithm>/<hex>/<algorithm>/<hex>   * an empty file: the layer, and its uncompressed copy
      tops/<algorithm>/<hex>      * the newest V1 image of a V2 manifest
      memberships/<id>/<name, + for />   * one empty file for each repository that has the image
      claims/<id>/<name, + for />        * the same for repositories that list it without having pushed it
      memberships-are-complete    * marks that memberships has all lists and tags
      private/<name, + for />     * one empty file for each private repository
      private-layers/<algorithm>/<hex>   * the layer of a private image, or deleted from a private repository
      private-is-complete         * marks that private and private-layers are complete

Entries marked ``*`` are extensions of this registry. 0.7.1 ignores them, so it could continue with the tree. Its own
caches ``_files`` and ``_diff`` are never read: they were wrong below the root folder.

The paths of repositories, and of what marks them as private, are in :mod:`docker_registry.registry.layout`.
"""

from __future__ import annotations

from typing import Final

from docker_registry.errors import DigestInvalid
from docker_registry.registry.layout import HIDDEN, IMAGES, ROOT, UNPACKED, flat_name, image_layer_link
from docker_registry.registry.names import Digest, ImageId, ImageRepositoryName, RepositoryName, Tag, is_tag

TOKEN_KEY: Final = f"{ROOT}/_v1/token-key"

#: The folder of the derived images.
DERIVED: Final = f"{ROOT}/_v1/derived"

#: The folder of the records of :func:`unpacked_from`.
UNPACKED_FROM: Final = f"{ROOT}/_v1/unpacked-from"

MEMBERSHIPS_ARE_COMPLETE: Final = f"{ROOT}/_v1/memberships-are-complete"

_TAG: Final = "tag_"
_FROM: Final = "from-"


def image(image_id: ImageId) -> str:
    """The folder of an image."""
    return f"{f'{HIDDEN}/_images' if image_id.is_hidden else IMAGES}/{image_id}"


def image_json(image_id: ImageId) -> str:
    """The file of the image's JSON, as it was pushed."""
    return f"{image(image_id)}/json"


def ancestry(image_id: ImageId) -> str:
    """The file with the ids of the image and all its ancestors."""
    return f"{image(image_id)}/ancestry"


def layer(image_id: ImageId) -> str:
    """The file of the layer in the image's folder."""
    return f"{image(image_id)}/layer"


def checksum(image_id: ImageId) -> str:
    """The file with the checksums of the layer."""
    return f"{image(image_id)}/_checksum"


def in_progress(image_id: ImageId) -> str:
    """The file that marks that a push of this image is not finished."""
    return f"{image(image_id)}/_inprogress"


def blob_link(image_id: ImageId) -> str:
    """The file with the image's `LayerLink`."""
    return image_layer_link(image(image_id))


def pending(image_id: ImageId) -> str:
    """The folder of the JSON documents of pending pushes."""
    return f"{image(image_id)}/_pending"


def staged_layers(image_id: ImageId) -> str:
    """The folder of the staged layers that wait for their checksum."""
    return f"{image(image_id)}/_received"


def file_list(folder: str) -> str:
    """The file with the list of files in an image's layer; *folder* is the image's folder."""
    return f"{folder}/_filelist"


def changes(folder: str) -> str:
    """The file with the changes of an image's layer relative to its ancestors; *folder* is the image's folder."""
    return f"{folder}/_changes"


def manifest(folder: str) -> str:
    """The file with the digest of the derived V2 manifest; *folder* is the image's folder."""
    return f"{folder}/_manifest"


def derived(image_id: ImageId) -> str:
    """The folder of an image that was derived from a V2 image."""
    return f"{HIDDEN if image_id.is_hidden else ROOT}/_v1/derived/{image_id}"


def derived_image(image_id: ImageId) -> str:
    """The file of a derived image whose layer was verified."""
    return f"{derived(image_id)}/image"


def is_derived_image(path: str) -> bool:
    """Return whether :func:`derived_image` can have returned a path."""
    return path.rpartition("/")[2] == "image"


def derived_from(image_id: ImageId, name: RepositoryName, manifest_: Digest) -> str:
    """The file that records a manifest of a repository that contains the derived image."""
    return f"{derived(image_id)}/{_FROM}{Digest.of(f'{name}@{manifest_}'.encode()).hex[:32]}"


def derived_refusal(image_id: ImageId, blob: Digest) -> str:
    """The file that records that a blob is not the layer of a derived image."""
    return f"{derived(image_id)}/not-{blob.hex}"


def unpacked_layer(diff_id: Digest) -> str:
    """The file of an uncompressed layer of API V2."""
    return f"{UNPACKED}/{diff_id.algorithm}/{diff_id.hex}"


def unpacked_from(layer_: Digest, diff_id: Digest) -> str:
    """The file that records that an uncompressed layer is a copy of a layer."""
    return f"{unpacked_from_folder(layer_)}/{diff_id.algorithm}/{diff_id.hex}"


def unpacked_from_folder(layer_: Digest) -> str:
    """The folder of the records of the copies of a layer."""
    return f"{UNPACKED_FROM}/{layer_.algorithm}/{layer_.hex}"


def read_unpacked_from(path: str) -> tuple[Digest, Digest] | None:
    """Return the layer and its copy in a path that :func:`unpacked_from` returned; None for any other path."""
    parts = path.removeprefix(f"{UNPACKED_FROM}/").split("/")
    try:
        return (Digest.parse(":".join(parts[:2])), Digest.parse(":".join(parts[2:]))) if len(parts) == 4 else None
    except DigestInvalid:
        return None


def is_derived_from(path: str) -> bool:
    """Return whether :func:`derived_from` can have returned a path in the folder of a derived image."""
    return path.rpartition("/")[2].startswith(_FROM)


def top(manifest_: Digest) -> str:
    """The file with the newest V1 image of a V2 manifest."""
    return f"{ROOT}/_v1/tops/{manifest_.algorithm}/{manifest_.hex}"


def private_image(image_id: ImageId) -> str:
    """The file that marks that only private repositories have an image."""
    return f"{image(image_id)}/_private"


def memberships(image_id: ImageId) -> str:
    """The folder with an entry for each repository that has the image."""
    return f"{HIDDEN if image_id.is_hidden else ROOT}/_v1/memberships/{image_id}"


def claims(image_id: ImageId) -> str:
    """The folder with an entry for each repository that lists the image without having pushed it."""
    return f"{HIDDEN if image_id.is_hidden else ROOT}/_v1/claims/{image_id}"


def membership(folder: str, name: ImageRepositoryName) -> str:
    """The entry of a repository in a folder of :func:`memberships` or :func:`claims`."""
    return f"{folder}/{flat_name(name)}"


def index_images(folder: str) -> str:
    """The file with the list of all images that were ever pushed to a repository."""
    return f"{folder}/_index_images"


def repository_json(folder: str) -> str:
    """The file with the metadata of the push of the tag latest."""
    return f"{folder}/json"


def tag(folder: str, tag_: Tag) -> str:
    """The file with the id of the image that a tag points at."""
    return f"{folder}/{_TAG}{tag_}"


def tag_json(folder: str, tag_: Tag) -> str | None:
    """
    The file with the metadata of a tag's push; None when its path in 0.7.1 is the file of another tag.

    ``tag_x_json`` is the file of the tag ``x_json``, and would also be the metadata of the tag ``_x``.
    """
    return None if str(tag_).startswith("_") else f"{folder}/tag{tag_}_json"


def read_tag(path: str) -> Tag | None:
    """Return the tag of a file in a repository's folder; None for any other file."""
    file_name = path.rpartition("/")[2]
    text = file_name.removeprefix(_TAG)
    return Tag(text) if text != file_name and is_tag(text) else None
