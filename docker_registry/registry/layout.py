"""
The storage paths of all V2 content, in the layout of the CNCF distribution registry, and those of API V1 that the
registry reads also where V1 is not served.

::

    images/<id>/
      _blob                                               * digest of the layer of an image, in a JSON document
    repositories/<namespace>/<name>/
      _private                                              exists when the repository of API V1 is private
    docker/registry/v2/
      blobs/<algorithm>/<first two hex>/<hex>/data            every layer, config and manifest, once
      blobs/<algorithm>/<first two hex>/<hex>/alias         * path of its bytes, when they are a raw layer of API V1
      repositories/<name>/
        _layers/<algorithm>/<hex>/link                        this repository may read that blob
        _manifests/revisions/<algorithm>/<hex>/link           this repository has that manifest
        _manifests/revisions/<algorithm>/<hex>/mediatype    * its media type, where the payload does not state it
        _manifests/revisions/<algorithm>/<hex>/tag-<tag>    * back-reference from a tag that points, or pointed, at it
        _manifests/tags-are-noted                           * marks that every tag has a back-reference
        _manifests/tags/<tag>/current/link                    digest of the manifest that the tag points at
        _referrers/<algorithm>/<hex>/<algorithm>/<hex>      * descriptor of a referrer (second) of a subject (first)
        _uploads/<id>.state                                 * list of valid chunks, replaced by compare-and-swap
        _uploads/<id>/<offset>-<random>                     * the bytes of one PATCH
      _catalog/<name, with + for />                         * one empty file for each repository
      _catalog-is-whole                                     * marks that the catalog covers the whole tree
      _uploads/<id>.state, <id>/…                           * the same for uploads that belong to no repository yet
      _leases/<work>                                        * holder and expiry of a lease
      _identity                                             * id of this store, for a cache shared by several
      _read-only                                            * the reason while the registry is read-only
      _search/<index>/<random>                              * see search/missed_updates
      _mirror/<name, with + for />/upstream                 * URL of the registry that this repository mirrors
      _mirror/<name, with + for />/tags/<tag>               * target of a mirrored tag, and when it was checked
      _mirror/<name, with + for />/referrers/<digest>       * referrers of a manifest, as its upstream lists them
      _mirror/<name, with + for />/platforms/<digest>       * platform of a manifest, as an index states it
      _mirror/_v1/…                                         * see v1_mirror/records
      _transfers/<id>/<offset>                              * bytes of a blob that is being received from an upstream
      _removed/<algorithm>-<hex>/since, data                * a blob that will be removed, and where its bytes wait
      _probes/<random>                                      * test files that check whether the store is writable
      _auth/signing-keys                                    * keys that sign access tokens
      _auth/refresh-tokens/<hash>                           * one file for each refresh token
      _v1/private/<name, + for />                           * one empty file for each private repository
      _v1/private-layers/<algorithm>/<hex>                  * the layer of a private image, or deleted from a private
                                                              repository
      _v1/private-is-complete                               * marks that private and private-layers are complete
      _v1/…                                                 * see image_layout

Entries marked ``*`` are extensions of this registry. Distribution ignores them, so either server can continue with the
other's tree. Distribution also records every digest that a tag ever pointed at, in ``tags/<tag>/index``. This registry
never writes there; when a manifest is deleted, it checks for the digest there to find tags that distribution wrote. A
``link`` holds a digest without a newline. Folder names that begin with ``_`` are never part of a repository's name.

A registry that does not serve API V1 must not expose private repositories or remove layers either. All other paths of
API V1 are in :mod:`docker_registry.registry.v1.image_layout`.

**Quoting.** In a folder of API V1, slashes in a name are quoted: ``a/b/c`` is stored as ``repositories/a/b%2Fc`` by
0.7.1, and as ``b%252Fc`` by 0.8.1 and later. Both forms exist, so a name has up to two folders.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, unquote

from docker_registry.errors import DigestInvalid, NameInvalid
from docker_registry.registry.names import Digest, ImageRepositoryName, RepositoryName, Tag, is_repository_name, is_tag

ROOT: Final = "docker/registry/v2"
BLOBS: Final = f"{ROOT}/blobs"
REPOSITORIES: Final = f"{ROOT}/repositories"
#: Prefix of the paths of hidden names. It never holds content, so operations on hidden names find nothing.
HIDDEN: Final = f"{ROOT}/_hidden"
CATALOG: Final = f"{ROOT}/_catalog"
#: Keys and tokens; readable by the owner of the store only, and never served.
AUTH: Final = f"{ROOT}/_auth"
#: What is known of mirrored repositories.
MIRROR: Final = f"{ROOT}/_mirror"
#: Blobs that are being received from upstreams.
TRANSFERS: Final = f"{ROOT}/_transfers"
#: Blobs that will be removed unless something refers to them.
REMOVED: Final = f"{ROOT}/_removed"
CATALOG_COMPLETE: Final = f"{ROOT}/_catalog-is-whole"
IMAGES: Final = "images"
IMAGE_REPOSITORIES: Final = "repositories"
#: Uncompressed copies of layers of API V2, as they are sent to clients of API V1.
UNPACKED: Final = f"{ROOT}/_v1/unpacked"
PRIVATE_REPOSITORIES: Final = f"{ROOT}/_v1/private"
PRIVATE_IS_COMPLETE: Final = f"{ROOT}/_v1/private-is-complete"
PRIVATE_LAYERS: Final = f"{ROOT}/_v1/private-layers"

_TAG_PREFIX: Final = "tag-"
_STATE: Final = ".state"


def blob_folder(digest: Digest) -> str:
    """The folder of a blob's files."""
    return f"{BLOBS}/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}"


def blob_data(digest: Digest) -> str:
    """The blob's bytes."""
    return f"{blob_folder(digest)}/data"


def blob_alias(digest: Digest) -> str:
    """The file that points at a blob's bytes when they are stored elsewhere: ``<size> <path>``."""
    return f"{blob_folder(digest)}/alias"


def repository(name: RepositoryName) -> str:
    """The folder of a repository; it also contains the folders of repositories with longer names."""
    return f"{HIDDEN if name.is_hidden else REPOSITORIES}/{name.value}"


def flat_name(name: RepositoryName | ImageRepositoryName) -> str:
    """Return the name of a repository as the name of a single file; no such name contains ``+``."""
    return str(name).replace("/", "+")


def catalog_entry(name: RepositoryName) -> str:
    """The file that lists a repository in the catalog, written before the repository has content."""
    return f"{HIDDEN if name.is_hidden else CATALOG}/{flat_name(name)}"


def read_catalog_entry(file_name: str) -> str | None:
    """Return the repository's name from the name of a catalog file; None for any other file."""
    text = file_name.replace("+", "/")
    return text if is_repository_name(text) else None


def layers(name: RepositoryName) -> str:
    """The folder of a repository's links to blobs; distribution recognizes a repository by it."""
    return f"{repository(name)}/_layers"


def layer_link(name: RepositoryName, digest: Digest) -> str:
    """The file that grants a repository a blob."""
    return f"{layers(name)}/{digest.algorithm}/{digest.hex}/link"


def manifests(name: RepositoryName) -> str:
    """The folder of a repository's manifests and tags."""
    return f"{repository(name)}/_manifests"


def revisions(name: RepositoryName) -> str:
    """The folder of a repository's manifests."""
    return f"{manifests(name)}/revisions"


def revision(name: RepositoryName, digest: Digest) -> str:
    """The folder of the files of one manifest in a repository."""
    return f"{revisions(name)}/{digest.algorithm}/{digest.hex}"


def revision_link(name: RepositoryName, digest: Digest) -> str:
    """The file that grants a repository a manifest."""
    return f"{revision(name, digest)}/link"


def revision_media_type(name: RepositoryName, digest: Digest) -> str:
    """The file with the media type of a manifest whose payload does not state it."""
    return f"{revision(name, digest)}/mediatype"


def tag_back_reference(name: RepositoryName, digest: Digest, tag_: Tag) -> str:
    """The back-reference that records that a tag points, or pointed, at a manifest."""
    return f"{revision(name, digest)}/{_TAG_PREFIX}{tag_}"


def read_tag_back_reference(file_name: str) -> str | None:
    """Return the tag from the file name of a back-reference; None for any other file in a revision's folder."""
    tag_ = file_name.removeprefix(_TAG_PREFIX)
    return tag_ if tag_ != file_name and is_tag(tag_) else None


def back_references_complete(name: RepositoryName) -> str:
    """The file that marks that every tag of a repository has a back-reference at its manifest."""
    return f"{manifests(name)}/tags-are-noted"


def tags(name: RepositoryName) -> str:
    """The folder of a repository's tags."""
    return f"{manifests(name)}/tags"


def tag(name: RepositoryName, tag: Tag) -> str:
    """The folder of one tag."""
    return f"{tags(name)}/{tag}"


def tag_link(name: RepositoryName, tag_: Tag) -> str:
    """The file with the digest of the manifest that a tag points at."""
    return f"{tag(name, tag_)}/current/link"


def tag_history(name: RepositoryName, tag_: Tag) -> str:
    """The folder in which distribution records every digest that a tag has pointed at."""
    return f"{tag(name, tag_)}/index"


def tag_history_entry(name: RepositoryName, tag_: Tag, digest: Digest) -> str:
    """The file by which distribution records that a tag has pointed at a manifest."""
    return f"{tag_history(name, tag_)}/{digest.algorithm}/{digest.hex}/link"


def read_tag_link(path: str) -> str | None:
    """Return the tag from the path of its link, relative to the folder of tags; None for any other file."""
    tag_, _, rest = path.partition("/")
    return tag_ if rest == "current/link" and is_tag(tag_) else None


def referrers(name: RepositoryName, subject: Digest) -> str:
    """The folder of the referrers of a manifest."""
    return f"{repository(name)}/_referrers/{subject.algorithm}/{subject.hex}"


def referrers_of_algorithm(name: RepositoryName, subject: Digest, algorithm: str) -> str:
    """The folder of the referrers whose digests use one algorithm."""
    return f"{referrers(name, subject)}/{algorithm}"


def referrer(name: RepositoryName, subject: Digest, digest: Digest) -> str:
    """The file with the descriptor of a referrer."""
    return f"{referrers(name, subject)}/{digest.algorithm}/{digest.hex}"


def uploads(name: RepositoryName | None) -> str:
    """
    The folder of a repository's unfinished uploads.

    Args:
        name: None for uploads that belong to no repository yet. Uploads to a hidden repository are stored among those,
            and are purged with them.
    """
    return f"{ROOT}/_uploads" if name is None or name.is_hidden else f"{REPOSITORIES}/{name.value}/_uploads"


def upload(name: RepositoryName | None, upload_id: str) -> str:
    """The folder of the bytes that one upload session has received."""
    if name is not None and name.is_hidden:
        # Not in a folder for each name, of which empty ones would remain.
        upload_id = f"hidden-{Digest.of(str(name).encode()).hex[:32]}-{upload_id}"
    return f"{uploads(name)}/{upload_id}"


def upload_state(name: RepositoryName | None, upload_id: str) -> str:
    """The file with the state of one upload session."""
    return f"{upload(name, upload_id)}{_STATE}"


def read_upload(file_name: str) -> str:
    """Return the id of the upload session from the name of its state file or folder."""
    return file_name.removesuffix(_STATE)


#: The file that makes the registry read-only, with the reason.
READ_ONLY: Final = f"{ROOT}/_read-only"


def lease(work: str) -> str:
    """The file of the lease of some work."""
    return f"{ROOT}/_leases/{work}"


def mirrored(name: RepositoryName) -> str:
    """The folder of what is known of a mirrored repository."""
    return f"{MIRROR}/{flat_name(name)}"


def mirror_upstream(name: RepositoryName) -> str:
    """The file that marks a repository as mirrored, with the URL of its upstream."""
    return f"{mirrored(name)}/upstream"


def mirrored_tags(name: RepositoryName) -> str:
    """The folder of a repository's mirrored tags."""
    return f"{mirrored(name)}/tags"


def mirrored_tag(name: RepositoryName, tag: Tag) -> str:
    """The file with the target of a mirrored tag."""
    return f"{mirrored_tags(name)}/{tag}"


def mirrored_referrers(name: RepositoryName, subject: Digest) -> str:
    """The file with the upstream's list of the referrers of a manifest."""
    return f"{mirrored(name)}/referrers/{subject.algorithm}-{subject.hex}"


def mirrored_platform(name: RepositoryName, digest: Digest) -> str:
    """The file with the platform of a manifest in a mirrored index."""
    return f"{mirrored(name)}/platforms/{digest.algorithm}-{digest.hex}"


def read_tag(file_name: str) -> str | None:
    """Return the tag from the name of the file of a mirrored tag; None for any other file."""
    return file_name if is_tag(file_name) else None


def search_notes(index: str) -> str:
    """The folder of the notes that a search index lacks changes."""
    return f"{ROOT}/_search/{index}"


def transfer(transfer_id: str) -> str:
    """The folder of the bytes of one transfer from an upstream registry."""
    return f"{TRANSFERS}/{transfer_id}"


def removed_blob(digest: Digest) -> str:
    """The folder of a blob that will be removed unless something refers to it."""
    return f"{REMOVED}/{digest.algorithm}-{digest.hex}"


def removed_since(digest: Digest) -> str:
    """The file with the time of the last step of removing a blob."""
    return f"{removed_blob(digest)}/since"


def removed_data(digest: Digest) -> str:
    """Where the bytes of a blob wait for their removal."""
    return f"{removed_blob(digest)}/data"


def read_removed_blob(folder_name: str) -> Digest | None:
    """Return the digest in the name of the folder of a blob that will be removed; None for any other folder."""
    return _digest(*folder_name.partition("-")[::2])


def read_link(path: str) -> Digest | None:
    """Return the digest in the path of the link of a blob or manifest; None for any other path."""
    parts = path.rsplit("/", 3)
    is_link = len(parts) == 4 and parts[3] == "link" and parts[0].endswith(("/_layers", "/_manifests/revisions"))
    return _digest(parts[1], parts[2]) if is_link else None


def _digest(algorithm: str, hex_: str) -> Digest | None:
    try:
        return Digest.parse(f"{algorithm}:{hex_}")
    except DigestInvalid:
        return None


def probe(name: str) -> str:
    """A file that is written, read and removed to test the store."""
    return f"{ROOT}/_probes/{name}"


# -------------------------------------------------------------------------- repositories and images of API V1


def image_repository_folders(name: ImageRepositoryName) -> tuple[str, ...]:
    """Return the possible folders of a repository of API V1, that of 0.7.1 first."""
    root = f"{HIDDEN}/_repositories" if name.is_hidden else IMAGE_REPOSITORIES
    if "/" not in name.name:  # no other character of a name is quoted
        return (f"{root}/{name.namespace}/{name.name}",)
    quoted = quote(name.name, safe="")
    folders = (quoted, quote(quoted, safe=""))
    return tuple(f"{root}/{name.namespace}/{folder}" for folder in folders)


def read_image_repository_folder(path: str) -> ImageRepositoryName | None:
    """Return the name of the repository of API V1 in a folder; None for any other folder."""
    namespace, _, folder = path.removeprefix(f"{IMAGE_REPOSITORIES}/").partition("/")
    try:
        name = ImageRepositoryName.parse(f"{namespace}/{unquote(unquote(folder))}")
    except NameInvalid:
        return None
    return name if path in image_repository_folders(name) else None


def image_layer_link(folder: str) -> str:
    """The file that links the image in a folder to the blob of its layer."""
    return f"{folder}/_blob"


def private_mark(folder: str) -> str:
    """The file that marks that the repository of API V1 in a folder is private."""
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
