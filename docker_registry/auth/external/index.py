"""
The Index of API V1: a separate service that knows users, and validates the tokens of a registry that is not standalone.

A token names one repository; the Index is asked for the list of its images with the same Authorization header, and
answers 200 if the token is good.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from docker_registry.auth.external import https_documents
from docker_registry.errors import AuthorityUnavailable, NameInvalid, Unauthorized
from docker_registry.registry.bounded_cache import BoundedCache
from docker_registry.registry.names import ImageRepositoryName

#: Time for which the Index is not asked again about a token, as long as a push of many images takes.
REMEMBERED_SECONDS: Final = 900.0

#: Maximum number of images in a list of the Index, and of its bytes: thirty thousand images with their checksums.
MAX_IMAGES: Final = 50_000
MAX_BYTES: Final = 4 * 1024 * 1024

#: Memory for the answers that are remembered; what the id of an image takes of it, and a token.
MAX_REMEMBERED_BYTES: Final = 32 * 1024 * 1024
_ID_BYTES: Final = 150
_TOKEN_BYTES: Final = 2048

#: Some clients repeat the scheme: ``Token Token signature=…``.
_TOKEN: Final = re.compile(
    r"(?:Token ){1,2}signature=[A-Za-z0-9._-]{1,512},"
    r'repository="([^"/]{1,255}/[^"/]{1,255})",access=(read|write|delete)'
)


@dataclass(frozen=True, slots=True)
class IndexToken:
    """
    A token of the Index, not validated yet.

    Attributes:
        header: the whole Authorization header.
        repository: its two parts, with slashes in the second one quoted.
        access: ``read``, ``write`` or ``delete``.
    """

    header: str
    repository: str
    access: str

    @classmethod
    def parse(cls, header: str) -> IndexToken:
        """
        Parse an Authorization header.

        Raises:
            Unauthorized: it is no such token.
        """
        found = _TOKEN.fullmatch(header.strip())
        if found is None or not header.isascii():
            raise Unauthorized("Requires authorization")
        return cls(header.strip(), *found.groups())

    @property
    def name(self) -> ImageRepositoryName:
        """
        The repository's name.

        Raises:
            Unauthorized: the token names none.
        """
        try:
            return ImageRepositoryName.parse(unquote(self.repository))
        except NameInvalid:
            raise Unauthorized("Requires authorization") from None

    def __repr__(self) -> str:
        return f"IndexToken({self.repository})"


#: Ids of images, and until when they are remembered, in seconds of the monotonic clock.
_Answer = tuple[frozenset[str], float]


class Index:
    """Asks the Index, and remembers its answers for a while."""

    def __init__(self, endpoint: str, now: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            endpoint: its URL.
            now: a monotonic clock; returns seconds.

        Raises:
            ConfigError: the URL is not valid.
        """
        https_documents.check_url("index_endpoint", endpoint, schemes=("https", "http"))
        self._endpoint = endpoint.rstrip("/")
        self._now = now
        # By the header of a token, and the image that the Index was asked about; an empty text for the list.
        self._answers: BoundedCache[tuple[str, str], _Answer] = BoundedCache(
            MAX_REMEMBERED_BYTES, lambda answer: _TOKEN_BYTES + _ID_BYTES * len(answer[0])
        )

    def images(self, token: IndexToken) -> frozenset[str]:
        """
        Return the ids of the images of a token's repository.

        Raises:
            Unauthorized: the Index does not accept the token.
            AuthorityUnavailable: the Index did not answer in time.
        """
        return self._recall((token.header, ""), lambda: self._list_images(token))

    def allows(self, token: IndexToken, image_id: str) -> bool:
        """
        Return whether a token may read an image or use it as a parent: its repository lists it, or the Index allows it.

        Raises:
            Unauthorized, AuthorityUnavailable: as for :meth:`images`.
        """
        if image_id in self.images(token):
            return True
        return image_id in self._recall((token.header, image_id), lambda: self._other_image(token, image_id))

    def _recall(self, key: tuple[str, str], ask: Callable[[], frozenset[str]]) -> frozenset[str]:
        """Return an answer of the Index, from memory or from *ask*."""
        found = self._answers.get(key)
        if found is None or self._now() >= found[1]:
            found = ask(), self._now() + REMEMBERED_SECONDS
            self._answers.put(key, found)
        return found[0]

    def _list_images(self, token: IndexToken) -> frozenset[str]:
        entries = self._ask(token, "images")
        if not isinstance(entries, list) or len(entries) > MAX_IMAGES:
            raise Unauthorized("Requires authorization")
        return frozenset(str(entry["id"]) for entry in entries if isinstance(entry, dict) and "id" in entry)

    def _other_image(self, token: IndexToken, image_id: str) -> frozenset[str]:
        """Return the id if the token may read an image of another repository, else nothing."""
        answer = self._ask(token, f"layer/{image_id}/access")
        may_read = isinstance(answer, dict) and answer.get("access") is True
        return frozenset({image_id} if may_read else ())

    def _ask(self, token: IndexToken, what: str) -> object:
        """Return a document of the Index about a token's repository; None if it refuses."""
        url = f"{self._endpoint}/v1/repositories/{token.repository}/{what}"
        status, content = https_documents.request(url, headers={"Authorization": token.header}, max_bytes=MAX_BYTES)
        if status >= 500 or status in (408, 429):
            raise AuthorityUnavailable(f"The index answered {status}.")
        if status != 200:
            return None
        try:
            document: object = json.loads(content)
        except (ValueError, RecursionError):
            raise AuthorityUnavailable("The index answered with a document that is not JSON.") from None
        return document
