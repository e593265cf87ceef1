"""Search index entries computed from the store: every repository of API V1 and V2."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final, Protocol

from docker_registry.errors import LinkBroken, NameInvalid
from docker_registry.registry.names import LIBRARY, ImageRepositoryName, RepositoryName
from docker_registry.registry.private_repositories import PrivateRepositories
from docker_registry.registry.repositories import Repositories
from docker_registry.registry.search.index import Entry
from docker_registry.resources.time_slices import TimeSlices

logger = logging.getLogger(__name__)

_PAGE_SIZE: Final = 1000


class ImageRepositories(Protocol):
    """The repositories of API V1."""

    def exists(self, name: ImageRepositoryName) -> bool:
        """Return whether API V1 has a repository."""
        ...

    def names(self) -> Iterator[ImageRepositoryName]:
        """
        Yield all repositories.

        Raises:
            LinkBroken: a namespace is a broken symbolic link; raised after all other repositories were yielded.
        """
        ...


class SearchEntries:
    """Reads repositories from the store as search index entries."""

    def __init__(
        self,
        repositories: Repositories,
        private: PrivateRepositories,
        slices: TimeSlices,
        image_repositories: ImageRepositories | None = None,
    ) -> None:
        """
        Args:
            slices: time slices for the iteration over all repositories.
            image_repositories: those of API V1; None where it is not served.
        """
        self._repositories = repositories
        self._image_repositories = image_repositories
        self._private = private
        self._pace = slices.pace

    def look_up(self, name: str) -> Entry | None:
        """
        Return the current entry of a repository; None when it does not exist.

        Args:
            name: as clients see it: ``library/busybox`` for a repository of API V1, and ``busybox`` for one that exists
                in V2 only.
        """
        if self._is_known_to_v1(name) or not (self._is_image_repository(name) or self._is_repository(name)):
            return None
        return Entry(name, private=self._is_private(name))

    def all(self) -> Iterator[Entry]:
        """Yield every repository once, without those behind a broken symbolic link."""
        for image_repository in self._pace(self._image_repository_names()):
            yield Entry(str(image_repository), private=self._private.is_private(image_repository))
        last = ""
        while True:
            page = self._repositories.page(_PAGE_SIZE, last, with_hidden=True)
            for name in self._pace(page.names):
                if not self._is_known_to_v1(name) and not self._is_image_repository(name):
                    yield Entry(name, private=self._is_private(name))
            if not page.more:
                return
            last = page.names[-1]

    def _image_repository_names(self) -> Iterator[ImageRepositoryName]:
        if self._image_repositories is None:
            return
        try:
            yield from self._image_repositories.names()
        except LinkBroken as error:
            logger.warning("the search index lacks repositories: %s", error)

    def _is_image_repository(self, name: str) -> bool:
        # API V1 calls a name without a slash library/name and indexes it under that name.
        if self._image_repositories is None or "/" not in name:
            return False
        try:
            return self._image_repositories.exists(ImageRepositoryName.parse(name))
        except NameInvalid:
            return False
        except LinkBroken:  # the list of repositories has its name
            return True

    def _is_known_to_v1(self, name: str) -> bool:
        """Return whether the repository is indexed under its V1 name ``library/<name>`` instead."""
        return "/" not in name and self._is_image_repository(f"{LIBRARY}/{name}")

    def _is_repository(self, name: str) -> bool:
        try:
            return self._repositories.exists(RepositoryName.parse(name))
        except NameInvalid:
            return False

    def _is_private(self, name: str) -> bool:
        try:
            return self._private.is_private(ImageRepositoryName.parse(name))
        except NameInvalid:
            return False
