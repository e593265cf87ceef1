"""
What can go wrong, in the registry's words.

::

    RegistryError
    ├── ConfigError             the start stops with this sentence
    ├── Invalid                 what was asked cannot be understood
    │   ├── NameInvalid  TagInvalid  DigestInvalid  UploadInvalid  PageInvalid
    │   ├── SizeInvalid         the body is shorter or longer than announced
    │   ├── ManifestInvalid     the payload is not a manifest that can be kept
    │   ├── LayerFormatUnsupported  the layer is no tar in a compression that is known, or is damaged
    │   ├── RangeInvalid        a chunk that does not begin where the upload ends
    │   └── ImageInvalid        API V1: what was sent of an image cannot be taken
    │       ├── ParentUnknown  ChecksumMissing  ChecksumMismatch
    │       └── BodyInvalid  JsonInvalid
    ├── TooLarge                more than the registry takes
    ├── NotFound                what was asked is not there
    │   ├── NameUnknown  BlobUnknown  ManifestUnknown  UploadUnknown
    │   ├── ManifestBlobUnknown a manifest names a blob that its repository lacks
    │   └── ImageUnknown  ImagesUnknown  ImageTagUnknown  ImageRepositoryUnknown    API V1
    ├── ImageUnfinished         the push of an image has not ended
    ├── ImageExists             an image that is there whole is not pushed again
    ├── ChecksumUnexpected      no push of this image waits for a checksum
    ├── DiffUnavailable         a diff that would take too long
    ├── RangeNotSatisfiable     a read beyond the end
    ├── TagChanged              a tag is not what a conditional request expects
    ├── TagImmutable            a tag that may not change
    │   └── ContentImmutable    content that an immutable tag depends on
    ├── Unsupported             the operation is switched off or not offered
    │   └── ConditionUnsupported  the store cannot do it only if nothing has changed
    ├── ClientLeft              the client closed its connection while its answer was computed
    ├── Overloaded              a limit of the worker is used up; asking again later may help
    └── StorageError            the store cannot do what it was asked
        ├── PathNotFound        nothing lies under that path
        ├── PathInvalid         the path breaks the path grammar of drivers
        ├── PreconditionFailed  a conditional put met another version
        ├── StorageFull         no room, or over quota
        └── StorageUnavailable  away for now; asking again may help

The first line of a class's docstring is its message to the client (in API V1 the very sentence that its clients
compare); what varies is a field and becomes the ``detail``. HTTP is not known here:
:mod:`docker_registry.api.errors` says which status answers which class.
"""

from __future__ import annotations


class RegistryError(Exception):
    """The registry cannot do that."""

    def __init__(self, sentence: str | None = None, **detail: object) -> None:
        """
        Args:
            sentence: replaces the message where the class alone does not say enough.
            detail: what exactly, for the client: only values that JSON can carry.
        """
        self.sentence = sentence or (type(self).__doc__ or "").strip().partition("\n")[0]
        self.detail = detail
        super().__init__(self.sentence, detail)

    def __str__(self) -> str:
        fields = ", ".join(f"{name}: {value}" for name, value in self.detail.items())
        return f"{self.sentence} ({fields})" if fields else self.sentence


class ConfigError(RegistryError):
    """The configuration cannot be used."""


# ------------------------------------------------------------------ what was asked cannot be understood


class Invalid(RegistryError):
    """The request cannot be understood."""


class NameInvalid(Invalid):
    """The repository name is not valid."""


class TagInvalid(Invalid):
    """The tag is not valid."""


class DigestInvalid(Invalid):
    """The digest is not valid, or is not the digest of the content."""


class UploadInvalid(Invalid):
    """The upload cannot be continued with this request."""


class PageInvalid(Invalid):
    """The number of results must be a whole number of at least 0."""


class SizeInvalid(Invalid):
    """The body is not as long as was announced."""


class ManifestInvalid(Invalid):
    """The manifest is not valid."""


class LayerFormatUnsupported(Invalid):
    """Layer format not supported"""


class RangeInvalid(Invalid):
    """The chunk does not begin where the upload ends."""

    def __init__(self, sentence: str | None = None, *, size: int, **detail: object) -> None:
        """
        Args:
            size: bytes that the upload holds, the only offset at which it goes on.
        """
        super().__init__(sentence, size=size, **detail)
        self.size = size


class ImageInvalid(Invalid):
    """Invalid JSON"""


class ParentUnknown(ImageInvalid):
    """Image depends on a non existing parent"""


class ChecksumMissing(ImageInvalid):
    """Missing Image's checksum"""


class ChecksumMismatch(ImageInvalid):
    """Checksum mismatch"""


class JsonInvalid(ImageInvalid):
    """Error Decoding JSON"""


class BodyInvalid(ImageInvalid):
    """Invalid data"""


class TooLarge(RegistryError):
    """The content is larger than this registry accepts."""


# ---------------------------------------------------------------------------- what was asked is not there


class NotFound(RegistryError):
    """There is nothing here."""


class NameUnknown(NotFound):
    """This registry has no such repository."""


class BlobUnknown(NotFound):
    """No such blob in this repository."""


class ManifestUnknown(NotFound):
    """No such manifest in this repository."""


class UploadUnknown(NotFound):
    """No such upload: it was committed, cancelled or purged, or never began."""


class ManifestBlobUnknown(NotFound):
    """The manifest names a blob or manifest that this repository does not have."""


class ImageUnknown(NotFound):
    """Image not found"""


class ImagesUnknown(NotFound):
    """images not found"""


class ImageTagUnknown(NotFound):
    """Tag not found"""


class ImageRepositoryUnknown(NotFound):
    """Repository not found"""


class ImageUnfinished(RegistryError):
    """Image is being uploaded, retry later"""


class ImageExists(RegistryError):
    """Image already exists"""


class ChecksumUnexpected(RegistryError):
    """Cannot set this image checksum"""


class DiffUnavailable(RegistryError):
    """Diff queue is disabled"""


class RangeNotSatisfiable(RegistryError):
    """The range lies beyond the end of the content."""

    def __init__(self, sentence: str | None = None, *, size: int) -> None:
        """
        Args:
            size: bytes of the whole content.
        """
        super().__init__(sentence, size=size)
        self.size = size


class TagChanged(RegistryError):
    """The tag does not point at what the request expects."""


class TagImmutable(RegistryError):
    """The tag may not be changed or deleted once it is there."""


class ContentImmutable(TagImmutable):
    """An immutable tag depends on this content, so it may not be deleted."""


class Unsupported(RegistryError):
    """The operation is not supported."""


class ConditionUnsupported(Unsupported):
    """The store cannot make this change on a condition."""


class ClientLeft(RegistryError):
    """The client closed the connection."""


class Overloaded(RegistryError):
    """The registry is overloaded. Try again later."""


# ------------------------------------------------------------------------------------------------ the store


class StorageError(RegistryError):
    """The store failed."""


class PathNotFound(StorageError):
    """Nothing lies under this path."""


class PathInvalid(StorageError):
    """The path breaks the grammar of storage paths."""


class PreconditionFailed(StorageError):
    """The stored content is not the version that was expected."""


class StorageFull(StorageError):
    """The store has no room left."""


class StorageUnavailable(StorageError):
    """The store cannot be reached for now."""
