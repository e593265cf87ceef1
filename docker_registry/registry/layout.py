"""
Every storage path of V2 content, in the layout of the CNCF distribution registry.

::

    docker/registry/v2/
      blobs/<algorithm>/<first two hex>/<hex>/data            every layer, config and manifest, once
      blobs/<algorithm>/<first two hex>/<hex>/alias         * where its bytes lie, when they are a raw layer of API V1
      repositories/<name>/
        _layers/<algorithm>/<hex>/link                        this repository may read that blob
        _manifests/revisions/<algorithm>/<hex>/link           this repository has that manifest
        _manifests/revisions/<algorithm>/<hex>/mediatype    * how it was pushed, where the payload does not say
        _manifests/revisions/<algorithm>/<hex>/tag-<tag>    * a tag that points, or pointed, at it
        _manifests/tags-are-noted                           * every tag has such a note
        _manifests/tags/<tag>/current/link                    what the tag points at
        _referrers/<algorithm>/<hex>/<algorithm>/<hex>      * a manifest about that one, as its descriptor
        _uploads/<id>.state                                 * which chunks count, replaced by compare-and-swap
        _uploads/<id>/<offset>-<random>                     * the bytes of one PATCH
      _catalog/<name, with + for />                         * one empty file for each repository
      _catalog-is-whole                                   * nothing that was here before is missing in it
      _uploads/<id>.state, <id>/…                           * the same for uploads that belong to no repository yet
      _leases/<work>                                        * who does what only one may do at a time
      _identity                                             * which store this is, for a cache that holds several
      _probes/<random>                                      * written to find out whether that can be done
      _v1/…                                                 * see image_layout

What is marked ``*`` is ours: distribution ignores it, so either server can continue the other's tree. It also keeps
everything that a tag ever pointed at, in ``tags/<tag>/index``. The registry never writes there; it looks for a digest
there when a manifest is deleted, to find tags that distribution wrote. A ``link`` holds a digest without a newline.
Folder names that begin with ``_`` are never part of a repository's name.
"""

from __future__ import annotations

from typing import Final

from docker_registry.registry.names import Digest, RepositoryName, Tag, is_repository_name, is_tag

ROOT: Final = "docker/registry/v2"
BLOBS: Final = f"{ROOT}/blobs"
REPOSITORIES: Final = f"{ROOT}/repositories"
#: Nothing is ever written there: it is where operations on hidden names look.
HIDDEN: Final = f"{ROOT}/_hidden"
CATALOG: Final = f"{ROOT}/_catalog"
CATALOG_IS_WHOLE: Final = f"{ROOT}/_catalog-is-whole"

_TAG_NOTE: Final = "tag-"
_STATE: Final = ".state"


def blob_folder(digest: Digest) -> str:
    """The folder of all that is known about a blob."""
    return f"{BLOBS}/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}"


def blob_data(digest: Digest) -> str:
    """The blob's bytes."""
    return f"{blob_folder(digest)}/data"


def blob_alias(digest: Digest) -> str:
    """Where the blob's bytes lie, when nobody has put them where they belong: ``<size> <path>``."""
    return f"{blob_folder(digest)}/alias"


def repository(name: RepositoryName) -> str:
    """The folder of a repository; deeper repositories nest in it."""
    return f"{HIDDEN if name.is_hidden else REPOSITORIES}/{name}"


def catalog_entry(name: RepositoryName) -> str:
    """Says that there is, or soon will be, such a repository."""
    return f"{HIDDEN if name.is_hidden else CATALOG}/{str(name).replace('/', '+')}"


def read_catalog_entry(file_name: str) -> str | None:
    """Return the repository's name that a file of the catalog stands for; None for a file that stands for none."""
    text = file_name.replace("+", "/")
    return text if is_repository_name(text) else None


def layers(name: RepositoryName) -> str:
    """The folder by whose presence distribution knows a repository."""
    return f"{repository(name)}/_layers"


def layer_link(name: RepositoryName, digest: Digest) -> str:
    """Says that the repository may read the blob."""
    return f"{layers(name)}/{digest.algorithm}/{digest.hex}/link"


def manifests(name: RepositoryName) -> str:
    """The folder of a repository's manifests and tags."""
    return f"{repository(name)}/_manifests"


def revisions(name: RepositoryName) -> str:
    """The folder of a repository's manifests."""
    return f"{manifests(name)}/revisions"


def revision(name: RepositoryName, digest: Digest) -> str:
    """The folder of all that a repository knows about one of its manifests."""
    return f"{revisions(name)}/{digest.algorithm}/{digest.hex}"


def revision_link(name: RepositoryName, digest: Digest) -> str:
    """Says that the repository has the manifest."""
    return f"{revision(name, digest)}/link"


def revision_media_type(name: RepositoryName, digest: Digest) -> str:
    """How the manifest was pushed, where its payload does not say."""
    return f"{revision(name, digest)}/mediatype"


def tag_note(name: RepositoryName, digest: Digest, tag_: Tag) -> str:
    """Says that the tag points, or pointed, at a manifest."""
    return f"{revision(name, digest)}/{_TAG_NOTE}{tag_}"


def read_tag_note(file_name: str) -> str | None:
    """Return the tag that a file beside a revision's link notes; None for one that notes none."""
    tag_ = file_name.removeprefix(_TAG_NOTE)
    return tag_ if tag_ != file_name and is_tag(tag_) else None


def tags_are_noted(name: RepositoryName) -> str:
    """Says that every tag of a repository is noted at its manifest."""
    return f"{manifests(name)}/tags-are-noted"


def tags(name: RepositoryName) -> str:
    """The folder of a repository's tags."""
    return f"{manifests(name)}/tags"


def tag(name: RepositoryName, tag: Tag) -> str:
    """The folder of one tag."""
    return f"{tags(name)}/{tag}"


def tag_link(name: RepositoryName, tag_: Tag) -> str:
    """What the tag points at."""
    return f"{tag(name, tag_)}/current/link"


def tag_history(name: RepositoryName, tag_: Tag) -> str:
    """The folder in which distribution keeps every digest that it ever let the tag point at."""
    return f"{tag(name, tag_)}/index"


def tag_history_entry(name: RepositoryName, tag_: Tag, digest: Digest) -> str:
    """Exists when distribution has let the tag point at a manifest."""
    return f"{tag_history(name, tag_)}/{digest.algorithm}/{digest.hex}/link"


def read_tag_link(path: str) -> str | None:
    """Return the tag that a file in the folder of tags makes, by its path there; None for one that makes none."""
    tag_, _, rest = path.partition("/")
    return tag_ if rest == "current/link" and is_tag(tag_) else None


def referrers(name: RepositoryName, subject: Digest) -> str:
    """The folder of the manifests that are about another one."""
    return f"{repository(name)}/_referrers/{subject.algorithm}/{subject.hex}"


def referrers_of_algorithm(name: RepositoryName, subject: Digest, algorithm: str) -> str:
    """The folder of those manifests about another one whose digests are of one algorithm."""
    return f"{referrers(name, subject)}/{algorithm}"


def referrer(name: RepositoryName, subject: Digest, digest: Digest) -> str:
    """The descriptor of one manifest about another one."""
    return f"{referrers(name, subject)}/{digest.algorithm}/{digest.hex}"


def uploads(name: RepositoryName | None) -> str:
    """
    The folder of a repository's unfinished uploads; None for those that belong to no repository yet.

    Uploads to a hidden repository are kept beside the latter, and are purged with them.
    """
    if name is None:
        return f"{ROOT}/_uploads"
    if name.is_hidden:
        return f"{ROOT}/_uploads/hidden-{Digest.of(str(name).encode()).hex[:32]}"
    return f"{repository(name)}/_uploads"


def upload(name: RepositoryName | None, upload_id: str) -> str:
    """The folder of what one upload session has received."""
    return f"{uploads(name)}/{upload_id}"


def upload_state(name: RepositoryName | None, upload_id: str) -> str:
    """What one upload session has come to."""
    return f"{upload(name, upload_id)}{_STATE}"


def read_upload(file_name: str) -> str:
    """Return the id of the upload session to which something belongs that lies among the uploads."""
    return file_name.removesuffix(_STATE)


def lease(work: str) -> str:
    """Who does the work that only one process may do at a time."""
    return f"{ROOT}/_leases/{work}"


def probe(name: str) -> str:
    """A file that is written, read and removed again."""
    return f"{ROOT}/_probes/{name}"
