"""
The driver for containers of OpenStack Swift.

An object's name is ``storage_path`` followed by the path. A large file is a static large object, whose segments
:mod:`~docker_registry.drivers.swift.segments` keeps in the same container. Containers of docker-registry 0.7 to 0.9 are
served unchanged, and so are those of registry:2 with ``storage_path: files`` (preceded by its own root directory):
dynamic large objects that it wrote are read like any other file.

Swift has no atomic conditional writes: it checks ``If-None-Match: *`` before the write, not together with it, and does
not support ``If-Match`` for a PUT. So this driver does not declare :attr:`Capabilities.if_match`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

from docker_registry.drivers.base import Bytes, Stat
from docker_registry.drivers.objects import ObjectDriver
from docker_registry.drivers.swift.connections import Account, Connections
from docker_registry.drivers.swift.container import Entry, SwiftContainer
from docker_registry.drivers.swift.keystone import check_url
from docker_registry.drivers.swift.segments import Segments
from docker_registry.errors import ConfigError, PathNotFound, PreconditionFailed
from docker_registry.settings import Setting, sent


class SwiftDriver(ObjectDriver[Entry]):
    """Stores files in a Swift container."""

    reserved: ClassVar[str | None] = ".docker-registry"

    _objects: SwiftContainer

    settings: ClassVar[tuple[Setting, ...]] = sent(
        (
            Setting("storage_path", str, "/registry", "Prefix of all object names."),
            Setting("swift_authurl", help="URL of Keystone (`…/v3`) or TempAuth (`…/auth/v1.0`)."),
            Setting(
                "swift_auth_version",
                help="Version of the authentication API. Derived from the URL when unset.",
                choices=("1", "2", "3"),
            ),
            Setting("swift_container", help="Name of the container; created if missing."),
            Setting("swift_user", help="User name; `account:user` for TempAuth."),
            Setting("swift_password", help="Password.", secret=True),
            Setting("swift_tenant_name", help="Keystone: project."),
            Setting("swift_region_name", help="Keystone: region, if there are several."),
            Setting("swift_user_domain", str, "Default", "Keystone: domain of the user."),
            Setting("swift_project_domain", str, "Default", "Keystone: domain of the project."),
            Setting(
                "swift_endpoint_type",
                str,
                "public",
                "Keystone: type of the Swift endpoint.",
                choices=("public", "internal", "admin"),
            ),
            Setting(
                "swift_cacert",
                help="PEM file of the certificate authorities that sign the certificates of Swift and Keystone.",
                form="file",
            ),
            Setting("swift_insecure", bool, False, "Skip the verification of certificates."),
            Setting("swift_timeout", int, 60, "Timeout for a response of the store.", unit="seconds", minimum=1),
            Setting(
                "swift_segment_bytes",
                int,
                16777216,
                "Segment size of large files; every upload needs twice this memory.",
                unit="bytes",
                minimum=1048576,
            ),
            Setting(
                "swift_temp_url_key",
                help="Key that signs URLs for `storage_redirect`; it is set on the container.",
                secret=True,
            ),
            Setting("swift_temp_url_seconds", int, 1200, "Lifetime of signed URLs.", unit="seconds", minimum=1),
        )
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
            ConfigError: a setting is missing or malformed.
            StorageError: the container cannot be used.
        """
        if not swift_container:
            raise ConfigError("swift_container is not set")
        check_url("swift_authurl", swift_authurl)
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
        self._objects = SwiftContainer(self._connections, swift_container, swift_temp_url_key)
        super().__init__(storage_path)
        self._segments = Segments(self._objects, f"{self._root}{self.reserved}/segments/", swift_segment_bytes)
        self._temp_url_seconds = swift_temp_url_seconds

    def get_content(self, path: str) -> bytes:
        """See :class:`StorageDriver`."""
        return b"".join(self.stream_read(path))

    def put_content(self, path: str, content: Bytes, *, if_match: str | None = None) -> None:
        """See :class:`StorageDriver`; conditional puts are not supported and raise PreconditionFailed."""
        name = self._name(path)
        if if_match is not None:
            raise PreconditionFailed("Swift does not support conditional writes.", path=path)
        self._segments.write(name, [content])

    def stream_write(self, path: str, blocks: Iterable[Bytes]) -> int:
        """See :class:`StorageDriver`."""
        return self._segments.write(self._name(path), blocks)

    def walk(self, path: str = "") -> Iterator[Stat]:
        """See :class:`StorageDriver`."""
        for entry in self._objects.entries(self._prefix(path)):
            file_path = None if entry.is_folder else self._path(entry.name)
            if file_path is None:
                continue
            if entry.size:
                yield Stat(file_path, entry.size, entry.modified)
                continue
            try:  # a listing shows size 0 for both an empty file and a dynamic large object
                yield self.stat(file_path)
            except PathNotFound:  # removed after it was listed
                continue

    def remove_leftovers(self, older_than_seconds: float) -> int:
        """See :class:`StorageDriver`; deletes segments that no file references, including those of removed files."""
        return self._segments.sweep(older_than_seconds, lambda: self._objects.entries(self._root))

    def content_redirect_url(self, path: str) -> str | None:
        """See :class:`StorageDriver`; None without ``swift_temp_url_key``."""
        return self._objects.temp_url(self._name(path), self._temp_url_seconds)

    def close(self) -> None:
        """Close the idle connections."""
        self._connections.close()

    def _copy(self, source: Entry, target: str) -> None:
        self._objects.copy(source.name, target)  # for a large file, copies only the manifest

    def _delete(self, entry: Entry) -> None:
        self._objects.delete(entry.name)  # remove_leftovers deletes the segments of large files

    def _touch(self, path: str) -> None:
        self._objects.touch(self._head(path))
