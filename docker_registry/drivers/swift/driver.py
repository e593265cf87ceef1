"""
Keeps everything in a container of OpenStack Swift.

A path is an object's name behind ``storage_path``; a large file is a static large object, whose segments
:mod:`~docker_registry.drivers.swift.segments` keeps in the same container. The containers of docker-registry 0.7 to
0.9 are served as they are, and those of registry:2 with ``storage_path: files`` (its own root directory before it):
the dynamic large objects that it wrote are read like any other file.

Swift has no conditional writes: it looks for ``If-None-Match: *`` before it writes, not while it does, and knows no
``If-Match`` for a PUT at all. So this driver declares none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar, Final

from docker_registry.drivers.base import Bytes, Stat, StorageDriver, check_path
from docker_registry.drivers.swift.connections import Account, Connections
from docker_registry.drivers.swift.container import Entry, SwiftContainer
from docker_registry.drivers.swift.segments import Segments
from docker_registry.errors import ConfigError, PathInvalid, PathNotFound, PreconditionFailed
from docker_registry.settings import Setting

#: The driver's own folder below the root, which no list shows.
_RESERVED: Final = ".docker-registry"


class SwiftDriver(StorageDriver):
    """A store in a container of Swift."""

    move_copies: ClassVar[bool] = True
    walks_by_pages: ClassVar[bool] = True
    min_chunk_bytes: ClassVar[int | None] = 5 * 1024 * 1024

    settings: ClassVar[tuple[Setting, ...]] = (
        Setting("storage_path", str, "/registry", "What every object's name begins with."),
        Setting("swift_authurl", help="Address of Keystone (`…/v3`), or of TempAuth (`…/auth/v1.0`)."),
        Setting(
            "swift_auth_version",
            help="How to ask for a token; judged by the address when unset.",
            choices=("1", "2", "3"),
        ),
        Setting("swift_container", help="The container; it is created when it is not there."),
        Setting("swift_user", help="User name, with TempAuth `account:user`."),
        Setting("swift_password", help="Its password.", secret=True),
        Setting("swift_tenant_name", help="Keystone: the project."),
        Setting("swift_region_name", help="Keystone: the region, where there are several."),
        Setting("swift_user_domain", str, "Default", "Keystone: domain of the user."),
        Setting("swift_project_domain", str, "Default", "Keystone: domain of the project."),
        Setting(
            "swift_endpoint_type",
            str,
            "public",
            "Keystone: which address of Swift.",
            choices=("public", "internal", "admin"),
        ),
        Setting("swift_cacert", help="File with the certificates (PEM) that sign those of Swift and Keystone."),
        Setting("swift_insecure", bool, False, "Trust every certificate."),
        Setting("swift_timeout", int, 60, "How long Swift may be silent.", unit="seconds", minimum=1),
        Setting(
            "swift_segment_bytes",
            int,
            16777216,
            "Size of the segments of larger files; every upload needs twice as much memory.",
            unit="bytes",
            minimum=1048576,
        ),
        Setting(
            "swift_temp_url_key",
            help="Key for signed URLs, given to the container; with `storage_redirect`.",
            secret=True,
        ),
        Setting("swift_temp_url_seconds", int, 1200, "How long a signed URL is good.", unit="seconds", minimum=1),
    )

    def __init__(
        self,
        *,
        swift_authurl: str,
        swift_container: str,
        swift_user: str,
        swift_password: str,
        storage_path: str = "/registry",
        swift_auth_version: str | None = None,
        swift_tenant_name: str | None = None,
        swift_region_name: str | None = None,
        swift_user_domain: str = "Default",
        swift_project_domain: str = "Default",
        swift_endpoint_type: str = "public",
        swift_cacert: str | None = None,
        swift_insecure: bool = False,
        swift_timeout: int = 60,
        swift_segment_bytes: int = 16 * 1024 * 1024,
        swift_temp_url_key: str | None = None,
        swift_temp_url_seconds: int = 1200,
    ) -> None:
        """
        Raises:
            ConfigError: a setting is missing.
            StorageError: the container cannot be used.
        """
        if not swift_container:
            raise ConfigError("swift_container is not set")
        account = Account(
            authurl=swift_authurl,
            user=swift_user,
            password=swift_password,
            auth_version=swift_auth_version,
            project=swift_tenant_name,
            region=swift_region_name,
            user_domain=swift_user_domain,
            project_domain=swift_project_domain,
            endpoint_type=swift_endpoint_type,
            cacert=swift_cacert,
            insecure=swift_insecure,
            timeout_seconds=swift_timeout,
        )
        self._connections = Connections(account.connector())
        self._container = SwiftContainer(self._connections, swift_container, swift_temp_url_key)
        root = (storage_path or "").strip("/")
        self._root = f"{root}/" if root else ""
        self._segments = Segments(self._container, f"{self._root}{_RESERVED}/segments/", swift_segment_bytes)
        self._temp_url_seconds = swift_temp_url_seconds

    def get_content(self, path: str) -> bytes:
        """See :class:`StorageDriver`."""
        return b"".join(self.stream_read(path))

    def put_content(self, path: str, content: Bytes, *, if_match: str | None = None) -> None:
        """See :class:`StorageDriver`; there are no conditional puts."""
        name = self._name(path)
        if if_match is not None:
            raise PreconditionFailed("Swift has no conditional writes.", path=path)
        self._segments.write(name, [content])

    def stream_read(self, path: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See :class:`StorageDriver`."""
        name = self._name(path)
        if length == 0:
            self.stat(path)
            return iter(())
        try:
            return self._container.read(name, offset, length)
        except PathNotFound:
            raise PathNotFound(path=path) from None

    def stream_write(self, path: str, blocks: Iterable[Bytes]) -> int:
        """See :class:`StorageDriver`."""
        return self._segments.write(self._name(path), blocks)

    def list_directory(self, path: str = "") -> Iterator[str]:
        """See :class:`StorageDriver`."""
        prefix = self._prefix(path)
        is_there = not path
        for entry in self._container.entries(prefix, "/"):
            found = self._path(entry.name.removesuffix("/"))
            # A file and a folder may have the same name here; a folder's marker is neither.
            if found is None or (entry.is_folder and not entry.name.endswith("/")):
                continue
            is_there = True
            yield found
        if not is_there:
            raise PathNotFound(path=path)

    def walk(self, path: str = "") -> Iterator[Stat]:
        """See :class:`StorageDriver`."""
        for entry in self._container.entries(self._prefix(path)):
            found = None if entry.is_folder else self._path(entry.name)
            if found is None:
                continue
            if entry.size:
                yield Stat(found, entry.size, entry.modified)
                continue
            try:  # a list does not tell an empty file from a dynamic large object
                yield self.stat(found)
            except PathNotFound:  # removed since it was listed
                continue

    def exists(self, path: str) -> bool:
        """See :class:`StorageDriver`."""
        try:
            self.stat(path)
        except PathNotFound:
            return any(not entry.is_folder for entry in self._container.entries(self._prefix(path)))
        return True

    def stat(self, path: str) -> Stat:
        """See :class:`StorageDriver`."""
        entry = self._head(path)
        return Stat(path, entry.size, entry.modified)

    def move(self, source: str, target: str) -> None:
        """See :class:`StorageDriver`; Swift copies the file, of a large one the manifest only."""
        old, new = self._name(source), self._name(target)
        if old == new:
            self._head(source)
            return
        self._head(source)
        try:
            self._container.copy(old, new)
            self._container.delete(old)
        except PathNotFound:
            raise PathNotFound(path=source) from None

    def touch(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        entry = self._head(path)
        try:
            self._container.touch(entry)
        except PathNotFound:
            raise PathNotFound(path=path) from None

    def remove(self, path: str) -> None:
        """See :class:`StorageDriver`; the segments of large files go with :meth:`remove_leftovers`."""
        try:
            self._container.delete(self._head(path).name)
        except PathNotFound:
            entries = self._container.entries(self._prefix(path))
            if not self._container.delete_all(entry.name for entry in entries):
                raise PathNotFound(path=path) from None

    def remove_leftovers(self, older_than_seconds: float) -> int:
        """See :class:`StorageDriver`: segments that belong to no file, those of removed files among them."""
        return self._segments.sweep(older_than_seconds, lambda: self._container.entries(self._root))

    def content_redirect_url(self, path: str) -> str | None:
        """See :class:`StorageDriver`; None without ``swift_temp_url_key``."""
        return self._container.temp_url(self._name(path), self._temp_url_seconds)

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self._connections.close()

    # ---------------------------------------------------------------------------------------- paths and names

    def _name(self, path: str) -> str:
        return self._root + self._check(path)

    def _check(self, path: str) -> str:
        check_path(path)
        if path == _RESERVED or path.startswith(f"{_RESERVED}/"):
            raise PathInvalid(path=path)
        return path

    def _prefix(self, path: str) -> str:
        return f"{self._root}{self._check(path)}/" if path else self._root

    def _path(self, name: str) -> str | None:
        """Return the path of an object; None when it has none, or is the driver's own."""
        try:
            return self._check(name[len(self._root) :])
        except PathInvalid:
            return None

    def _head(self, path: str) -> Entry:
        try:
            entry = self._container.head(self._name(path))
        except PathNotFound:
            raise PathNotFound(path=path) from None
        if entry.is_folder:
            raise PathNotFound(path=path)
        return entry
