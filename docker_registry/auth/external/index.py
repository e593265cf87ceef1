"""
The Index of API V1: a separate service that knows users, and validates the tokens of a registry that is not standalone.

A token names one repository; the Index is asked for the list of its images with the same Authorization header, and
answers 200 if the token is good.
"""

from __future__ import annotations

import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from docker_registry.auth.external import https_documents
from docker_registry.auth.tokens.json_web_tokens import MAX_REMEMBERED
from docker_registry.errors import AuthorityUnavailable, NameInvalid, Unauthorized
from docker_registry.registry.names import ImageRepositoryName

#: Time for which the Index is not asked again about a token, as long as a push of many images takes.
REMEMBERED_SECONDS: Final = 900.0

#: Maximum number of images in a list of the Index.
MAX_IMAGES: Final = 50_000

#: Some clients repeat the scheme: ``Token Token signature=…``.
_TOKEN: Final = re.compile(
    r'(?:Token )+signature=[A-Za-z0-9._-]{1,512},repository="([^"/]{1,255}/[^"/]{1,255})",access=(read|write|delete)'
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


@dataclass(slots=True)
class _Answer:
    """What the Index said about a token: the ids of its images, and those that may be used as parents."""

    images: frozenset[str]
    until: float
    others: dict[str, bool]


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
        self._answers: OrderedDict[str, _Answer] = OrderedDict()

    def images(self, token: IndexToken) -> frozenset[str]:
        """
        Return the ids of the images of a token's repository.

        Raises:
            Unauthorized: the Index does not accept the token.
            AuthorityUnavailable: the Index did not answer in time.
        """
        return self._answer(token).images

    def allows(self, token: IndexToken, image_id: str) -> bool:
        """
        Return whether a token may read an image or use it as a parent: its repository lists it, or the Index allows it.

        Raises:
            Unauthorized, AuthorityUnavailable: as for :meth:`images`.
        """
        answer = self._answer(token)
        if image_id in answer.images:
            return True
        if image_id not in answer.others:
            if len(answer.others) >= MAX_IMAGES:
                return False
            found = self._ask(token, f"layer/{image_id}/access")
            answer.others[image_id] = isinstance(found, dict) and found.get("access") is True
        return answer.others[image_id]

    def _answer(self, token: IndexToken) -> _Answer:
        found = self._answers.get(token.header)
        if found is not None and self._now() < found.until:
            return found
        entries = self._ask(token, "images")
        if not isinstance(entries, list) or len(entries) > MAX_IMAGES:
            raise Unauthorized("Requires authorization")
        ids = frozenset(str(entry["id"]) for entry in entries if isinstance(entry, dict) and "id" in entry)
        found = self._answers[token.header] = _Answer(ids, self._now() + REMEMBERED_SECONDS, {})
        while len(self._answers) > MAX_REMEMBERED:
            self._answers.popitem(last=False)
        return found

    def _ask(self, token: IndexToken, what: str) -> object:
        """Return a document of the Index about a token's repository; None if it refuses."""
        url = f"{self._endpoint}/v1/repositories/{token.repository}/{what}"
        status, content = https_documents.request(url, headers={"Authorization": token.header}, max_bytes=_MAX_BYTES)
        if status >= 500 or status in (408, 429):
            raise AuthorityUnavailable(f"The index answered {status}.")
        if status != 200:
            return None
        try:
            document: object = json.loads(content)
        except (ValueError, RecursionError):
            raise AuthorityUnavailable("The index answered with a document that is not JSON.") from None
        return document


#: Largest list of the Index: fifty thousand images with their checksums take more, but are not read at once.
_MAX_BYTES: Final = 4 * 1024 * 1024
