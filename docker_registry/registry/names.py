"""
Value types for names, tags, digests and image ids. Text is parsed once, on input, so a value is always valid.

Grammar: OCI Distribution Specification, "Pulling manifests"; OCI image-spec, descriptor.md, "Digests".

**Names in both APIs.** A client's ``foo`` is ``library/foo`` in API V1, but ``foo`` in API V2, where ``library/foo`` is
a separate repository, also for other servers that share the tree. So V1's ``library/foo`` corresponds to V2's ``foo``.
In V1, V2's ``library/foo`` supplies the tags that ``foo`` does not have. In V2, ``library/foo`` shows the content of
``foo`` if there is no repository ``library/foo``. The counterpart of a hidden name is hidden too. An *exact* name
(``is_exact``) has no such counterpart: access control makes a name exact for a client that may not see the other
repository.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from docker_registry.errors import DigestInvalid, ImageUnknown, NameInvalid, TagInvalid, UploadUnknown

if TYPE_CHECKING:
    from hashlib import _Hash

#: Digest algorithms that the registry can verify, with the length of their hexadecimal form.
ALGORITHMS: Final = {"sha256": 64, "sha512": 128}

CANONICAL: Final = "sha256"

_MAX_NAME = 255
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_HEX = re.compile(r"[a-f0-9]+")
_IMAGE_ID = re.compile(r"[a-f0-9]{16}|[a-f0-9]{64}")
_UPLOAD_ID = re.compile(r"[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12}")

#: Wider than the grammar of API V2: API V1 allowed capitals, and separators at the start and end of a component.
_IMAGE_REPOSITORY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")

#: The namespace of a V1 repository whose name has no slash.
LIBRARY: Final = "library"

#: Maximum bytes of a quoted name, so that it fits into one component of a storage path.
_MAX_QUOTED_NAME = 240

#: The number of parsed texts that are kept: the requests of a push repeat the repository's name and each digest.
_PARSED: Final = 512


def is_repository_name(text: str) -> bool:
    """Return whether a text matches the grammar of repository names."""
    return len(text) <= _MAX_NAME and _NAME.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    """Return whether a text matches the grammar of tags."""
    return _TAG.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class RepositoryName:
    """
    A repository's name, such as ``library/busybox``: at most 255 characters, any number of components.

    Attributes:
        is_hidden: the client may not see this repository (:mod:`docker_registry.registry.access`).
        is_exact: the name does not stand for another repository too.
    """

    value: str
    is_hidden: bool = False
    is_exact: bool = field(default=False, compare=False)

    @classmethod
    @lru_cache(maxsize=_PARSED)
    def parse(cls, text: str) -> RepositoryName:
        """
        Parse the name of a repository.

        Raises:
            NameInvalid: the text does not match the grammar.
        """
        if not is_repository_name(text):
            raise NameInvalid(name=text[:_MAX_NAME])
        return cls(text)

    def image_repository(self) -> ImageRepositoryName | None:
        """Return the V1 name of this repository; None when it can have none."""
        if self.value.partition("/")[0] == LIBRARY and self.value.count("/") == 1:
            return None
        try:
            found = ImageRepositoryName.parse(self.value)
        except NameInvalid:
            return None
        return replace(found, is_hidden=True) if self.is_hidden else found

    def short(self) -> RepositoryName | None:
        """Return ``foo`` for ``library/foo``; None for any other name, and for an exact one."""
        if self.is_exact:
            return None
        namespace, _, rest = self.value.partition("/")
        return RepositoryName(rest, self.is_hidden) if namespace == LIBRARY and rest and "/" not in rest else None

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag, such as ``latest``: at most 128 characters."""

    value: str

    @classmethod
    def parse(cls, text: str) -> Tag:
        """
        Parse a tag.

        Raises:
            TagInvalid: the text does not match the grammar.
        """
        if not is_tag(text):
            raise TagInvalid(tag=text[:256])
        return cls(text)

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Digest:
    """
    A content address such as ``sha256:e3b0c442…`` (OCI image-spec, descriptor.md, "Digests").

    Instances come from :meth:`parse`, :meth:`of` and :meth:`from_hash`, so a `Digest` is always valid.
    """

    algorithm: str
    hex: str

    @classmethod
    @lru_cache(maxsize=_PARSED)
    def parse(cls, text: str) -> Digest:
        """
        Parse a digest.

        Raises:
            DigestInvalid: the text is not a digest, or its algorithm is not supported.
        """
        algorithm, colon, encoded = text.partition(":")
        length = ALGORITHMS.get(algorithm)
        if not colon or length is None or len(encoded) != length or not _HEX.fullmatch(encoded):
            raise DigestInvalid(digest=text[:256])
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, content: bytes, algorithm: str = CANONICAL) -> Digest:
        """Compute the digest of *content*."""
        return cls(algorithm, getattr(hashlib, algorithm)(content).hexdigest())  # faster than hashlib.new

    @classmethod
    def from_hash(cls, state: _Hash) -> Digest:
        """Return the digest of a ``hashlib`` hash object, over the bytes it has been updated with."""
        return cls(state.name, state.hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


#: Identifies a manifest within a repository.
Reference = Tag | Digest


def parse_reference(text: str) -> Reference:
    """
    Parse a tag or a digest; a text with a colon is parsed as a digest.

    Raises:
        TagInvalid, DigestInvalid: the text is not a valid one.
    """
    return Digest.parse(text) if ":" in text else Tag.parse(text)


def parse_algorithm(text: str) -> str:
    """
    Return *text* if it names a supported digest algorithm.

    Raises:
        DigestInvalid: the algorithm is not supported.
    """
    if text not in ALGORITHMS:
        raise DigestInvalid("The digest algorithm is not supported.", algorithm=text[:64], supported=sorted(ALGORITHMS))
    return text


@dataclass(frozen=True, slots=True)
class Descriptor:
    """
    Media type, digest and size of some content (OCI image-spec, descriptor.md).

    Attributes:
        size: bytes.
    """

    media_type: str
    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class ImageId:
    """
    The id of a V1 image, chosen by the client: 64 hexadecimal digits, or 16 from very old tools.

    Attributes:
        is_hidden: the client may not see this image (:mod:`docker_registry.registry.access`).
    """

    value: str
    is_hidden: bool = False

    @classmethod
    def parse(cls, text: str) -> ImageId:
        """
        Parse an image id.

        Raises:
            ImageUnknown: the text is not a valid id.
        """
        if not _IMAGE_ID.fullmatch(text):
            raise ImageUnknown(id=text[:64])
        return cls(text)

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class ImageRepositoryName:
    """
    A repository's name in API V1: a namespace, and a name that may contain further slashes.

    ``foo`` means ``library/foo``. The grammar is wider than that of API V2.

    Attributes:
        is_hidden: the client may not see this repository (:mod:`docker_registry.registry.access`).
        is_exact: the name does not stand for another repository too, as for :class:`RepositoryName`.
    """

    namespace: str
    name: str
    is_hidden: bool = False
    is_exact: bool = field(default=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> ImageRepositoryName:
        """
        Parse the name of a V1 repository.

        Raises:
            NameInvalid: the text does not match the grammar, or is too long.
        """
        namespace, slash, name = text.partition("/")
        if not slash:
            namespace, name = LIBRARY, text
        # image_layout stores each slash as %252F; the name must fit into one component of a path.
        too_long = len(text) > _MAX_NAME or len(name) + 4 * name.count("/") > _MAX_QUOTED_NAME
        if too_long or not _IMAGE_REPOSITORY.fullmatch(f"{namespace}/{name}"):
            raise NameInvalid(name=text[:_MAX_NAME])
        return cls(namespace, name)

    def repository(self) -> RepositoryName | None:
        """Return the V2 name of this repository; None when its name is not valid in V2."""
        text = self.name if self._is_short() else str(self)
        return RepositoryName(text, self.is_hidden) if is_repository_name(text) else None

    def fallback(self) -> RepositoryName | None:
        """
        Return the V2 repository ``library/foo`` whose tags V1 also sees under ``library/foo``; None for other names,
        and for an exact one.
        """
        is_possible = self._is_short() and is_repository_name(str(self)) and not self.is_exact
        return RepositoryName(str(self), self.is_hidden) if is_possible else None

    def _is_short(self) -> bool:
        return self.namespace == LIBRARY and "/" not in self.name

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def parse_upload_id(text: str) -> str:
    """
    Return *text* if it is a well-formed id of an upload session.

    Raises:
        UploadUnknown: the registry cannot have created this id.
    """
    if not _UPLOAD_ID.fullmatch(text):
        raise UploadUnknown(id=text[:64])
    return text
