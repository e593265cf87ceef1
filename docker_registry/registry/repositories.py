"""Which repositories there are."""

from __future__ import annotations

from collections.abc import Iterator

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import NameInvalid, NameUnknown, PathNotFound
from docker_registry.registry import layout
from docker_registry.registry.names import RepositoryName


class Repositories:
    """All repositories: a repository is there as soon as it may read a blob or has a manifest."""

    def __init__(self, driver: StorageDriver) -> None:
        self._driver = driver

    def exists(self, name: RepositoryName) -> bool:
        """Tell whether a repository is there."""
        return self._driver.exists(layout.layers(name)) or self._driver.exists(layout.manifests(name))

    def check(self, name: RepositoryName) -> None:
        """
        Raises:
            NameUnknown: there is no such repository.
        """
        if not self.exists(name):
            raise NameUnknown(name=str(name))

    def list(self) -> tuple[RepositoryName, ...]:
        """Return all repositories in ASCII order of their names."""
        return tuple(sorted((name for name in self.folders() if self.exists(name)), key=str))

    def folders(self, path: str = layout.REPOSITORIES) -> Iterator[RepositoryName]:
        """Yield every name under which something lies: repositories, and those that only have unfinished uploads."""
        try:
            children = list(self._driver.list_directory(path))
        except PathNotFound:
            return
        own = any(child.rpartition("/")[2].startswith("_") for child in children)
        name = _parse(path.removeprefix(layout.REPOSITORIES).lstrip("/"))
        if own and name:
            yield name
        for child in children:
            if not child.rpartition("/")[2].startswith("_"):
                yield from self.folders(child)


def _parse(text: str) -> RepositoryName | None:
    try:
        return RepositoryName.parse(text)
    except NameInvalid:
        return None
