"""
The errors of the registry.

::

    RegistryError
    ├── ConfigError             the configuration is invalid; printed at startup
    ├── Invalid                 the request is invalid
    │   ├── NameInvalid  TagInvalid  DigestInvalid  UploadInvalid  PageInvalid
    │   ├── SizeInvalid         the body is shorter or longer than announced
    │   ├── ManifestInvalid     the payload is not a manifest that can be stored
    │   ├── LayerFormatUnsupported  the layer is not a tar in a supported compression, or is damaged
    │   ├── RangeInvalid        a chunk does not begin at the end of the upload
    │   └── ImageInvalid        API V1: a part of a pushed image is invalid
    │       ├── ParentUnknown  ChecksumMissing  ChecksumMismatch
    │       └── BodyInvalid  JsonInvalid
    ├── TooLarge                the content exceeds a limit
    ├── NotFound                the requested content does not exist
    │   ├── NameUnknown  BlobUnknown  ManifestUnknown  UploadUnknown
    │   ├── ManifestBlobUnknown a manifest names a blob that is not in its repository
    │   └── ImageUnknown  ImagesUnknown  ImageTagUnknown  ImageRepositoryUnknown    API V1
    ├── ImageUnfinished         the push of an image has not ended
    ├── ImageExists             the image exists completely and is not pushed again
    ├── ChecksumUnexpected      no pending push of this image needs a checksum
    ├── DiffUnavailable         a diff that would take too long
    ├── RangeNotSatisfiable     a read beyond the end
    ├── TagChanged              the tag does not meet the condition of the request
    ├── TagImmutable            the tag may not change
    │   └── ContentImmutable    an immutable tag depends on the content
    ├── Unauthorized            the credentials are missing, malformed or wrong
    ├── Denied                  the client is known, and may not do this
    ├── TooManyAttempts         too many logins failed
    ├── Unsupported             the operation is disabled or not supported
    │   └── ConditionUnsupported  the store does not support conditional changes
    ├── ClientLeft              the client disconnected while its response was computed
    ├── AuthorityUnavailable    another service that decides about access does not answer
    ├── Overloaded              a limit of the worker is exhausted; retrying later may succeed
    ├── UpstreamError           the registry that a repository mirrors denies access or answers incorrectly
    │   ├── UpstreamUnavailable it cannot be reached, or is not asked for now
    │   ├── UpstreamTimeout     it does not answer in time
    │   ├── UpstreamDenied      it denies access
    │   └── UpstreamLimited     it limits the number of pulls
    └── StorageError            an operation of the store failed
        ├── PathNotFound        the path does not exist
        ├── PathInvalid         the path violates the path grammar of drivers
        ├── LinkBroken          a symbolic link leads to nothing, or out of the store
        ├── PreconditionFailed  a conditional put found another version
        ├── StorageFull         no space left, or over quota
        └── StorageUnavailable  temporarily unreachable; retrying may succeed

The first line of a class's docstring is its message to the client (in API V1, exactly the text that clients compare);
variable values are fields and become the ``detail``. This module is independent of HTTP:
:mod:`docker_registry.api.errors` maps the classes to status codes.
"""

from __future__ import annotations

from collections.abc import Sequence


class RegistryError(Exception):
    """The registry cannot process the request."""

    def __init__(self, sentence: str | None = None, **detail: object) -> None:
        """
        Args:
            sentence: message to use instead of the class's own where that is not specific enough.
            detail: values for the client; they must be serializable as JSON.
        """
        self.sentence = sentence or (type(self).__doc__ or "").strip().partition("\n")[0]
        self.detail = detail
        super().__init__(self.sentence, detail)

    def __str__(self) -> str:
        """Return the message and its fields on one line, also if they quote a value with line breaks."""
        fields = ", ".join(f"{name}: {value}" for name, value in self.detail.items())
        text = f"{self.sentence} ({fields})" if fields else self.sentence
        return " ".join(text.splitlines())


class ConfigError(RegistryError):
    """The configuration is invalid."""


# ---------------------------------------------------------------------------------------- invalid requests


class Invalid(RegistryError):
    """The request is invalid."""


class NameInvalid(Invalid):
    """The repository name is invalid."""


class TagInvalid(Invalid):
    """The tag is invalid."""


class DigestInvalid(Invalid):
    """The digest is invalid or does not match the content."""


class UploadInvalid(Invalid):
    """The request does not fit the upload session."""


class PageInvalid(Invalid):
    """The page size must be a whole number, at least 0."""


class SizeInvalid(Invalid):
    """The body length differs from the announced length."""


class ManifestInvalid(Invalid):
    """The manifest is invalid."""


class LayerFormatUnsupported(Invalid):
    """Layer format not supported"""


class RangeInvalid(Invalid):
    """The chunk does not begin at the end of the upload."""

    def __init__(self, sentence: str | None = None, *, size: int, **detail: object) -> None:
        """
        Args:
            size: bytes received so far, the only offset at which the upload continues.
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
    """The content is too large for this registry."""


# ----------------------------------------------------------------------------------------- missing content


class NotFound(RegistryError):
    """Not found."""


class NameUnknown(NotFound):
    """The repository does not exist."""


class BlobUnknown(NotFound):
    """The repository has no such blob."""


class ManifestUnknown(NotFound):
    """The repository has no such manifest."""


class UploadUnknown(NotFound):
    """The upload session does not exist: committed, cancelled, purged or never started."""


class ManifestBlobUnknown(NotFound):
    """The manifest references content that the repository does not have."""


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
    """The range begins after the end of the content."""

    def __init__(self, sentence: str | None = None, *, size: int) -> None:
        """
        Args:
            size: bytes of the whole content.
        """
        super().__init__(sentence, size=size)
        self.size = size


class TagChanged(RegistryError):
    """The tag does not point at the expected manifest."""


class TagImmutable(RegistryError):
    """The tag is immutable: it cannot be changed or deleted."""


class ContentImmutable(TagImmutable):
    """An immutable tag needs this content, so it cannot be deleted."""


class Unauthorized(RegistryError):
    """Authentication is required."""

    def __init__(self, sentence: str | None = None, *, error: str | None = None, **detail: object) -> None:
        """
        Args:
            error: the error code of RFC 6750, such as ``invalid_token``, for the challenge; None if the client sent no
                token.
        """
        super().__init__(sentence, **detail)
        self.error = error


class Denied(RegistryError):
    """Access is denied."""


class TooManyAttempts(RegistryError):
    """Too many logins failed. Try again later."""

    def __init__(self, sentence: str | None = None, *, retry_after_seconds: int) -> None:
        """
        Args:
            retry_after_seconds: time until the next attempt is allowed.
        """
        super().__init__(sentence)
        self.retry_after_seconds = retry_after_seconds


class Unsupported(RegistryError):
    """The operation is not supported."""


class ConditionUnsupported(Unsupported):
    """The store does not support conditional changes."""


class ClientLeft(RegistryError):
    """The client closed the connection."""


class AuthorityUnavailable(RegistryError):
    """A service that decides about access is unavailable. Try again later."""


class Overloaded(RegistryError):
    """The registry is overloaded. Try again later."""


# ----------------------------------------------------------------------------------------- upstream registries


class UpstreamError(RegistryError):
    """The upstream registry did not answer correctly."""


class UpstreamUnavailable(UpstreamError):
    """The upstream registry cannot be reached."""


class UpstreamTimeout(UpstreamError):
    """The upstream registry did not answer in time."""


class UpstreamDenied(UpstreamError):
    """The upstream registry denies access."""


class UpstreamLimited(UpstreamError):
    """The upstream registry allows no more pulls for now."""

    def __init__(self, sentence: str | None = None, *, retry_after_seconds: int, **detail: object) -> None:
        """
        Args:
            retry_after_seconds: time until the upstream accepts requests again.
        """
        super().__init__(sentence, **detail)
        self.retry_after_seconds = retry_after_seconds


# ------------------------------------------------------------------------------------------------ the store


class StorageError(RegistryError):
    """The store failed."""


class PathNotFound(StorageError):
    """The path does not exist in the store."""


class PathInvalid(StorageError):
    """The storage path is invalid."""


class LinkBroken(StorageError):
    """A symbolic link leads to nothing, or out of the store."""

    def __init__(self, sentence: str | None = None, *, path: str, others: Sequence[str] = ()) -> None:
        """
        Args:
            path: a path at or below the link.
            others: the paths of further broken links that a walk has found.
        """
        super().__init__(sentence, path=path)
        self.paths = (path, *others)


class PreconditionFailed(StorageError):
    """The stored content has changed."""


class StorageFull(StorageError):
    """The store is full."""


class StorageUnavailable(StorageError):
    """The store is temporarily unavailable."""
