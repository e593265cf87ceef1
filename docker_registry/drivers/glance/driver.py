"""
The driver that keeps layers in OpenStack Glance and everything else in another driver, the alternate.

Layers are ``images/*/layer`` and the content of blobs, also while it waits for its removal. They are sent to Glance
when they are complete; the files of an upload in progress are stored in the alternate. For each layer, the alternate
also stores a small pointer file, whose presence defines whether the layer exists
(:mod:`~docker_registry.drivers.glance.pointers`). A layer that was stored in the alternate before Glance was configured
is served from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, BinaryIO, ClassVar, TypeVar

from docker_registry import drivers
from docker_registry.drivers.base import Bytes, Capabilities, Stat, StorageDriver, Versioned
from docker_registry.drivers.glance import pointers
from docker_registry.drivers.glance.images import GlanceImages, ImageMissing
from docker_registry.drivers.glance.layers import MAX_ATTEMPTS, RESERVED, GlanceLayers
from docker_registry.drivers.glance.pointers import SUFFIX, Pointer
from docker_registry.drivers.paths import check_path
from docker_registry.drivers.swift.connections import Account
from docker_registry.drivers.swift.driver import SwiftDriver
from docker_registry.drivers.swift.keystone import Identity, check_url
from docker_registry.errors import (
    ConfigError,
    PathInvalid,
    PathNotFound,
    StorageError,
)
from docker_registry.settings import Setting

Result = TypeVar("Result")


class GlanceDriver(StorageDriver):
    """Stores layers in Glance and everything else in another driver."""

    settings: ClassVar[tuple[Setting, ...]] = (
        Setting(
            "storage_alternate",
            str,
            "file",
            "Storage driver for everything but layers.",
            choices=("file", "local", "swift"),
        ),
        Setting("glance_url", help="URL of Glance. Found in Keystone's catalog when unset."),
        Setting("glance_authurl", help="URL of Keystone (`…/v3`). `swift_authurl` when unset."),
        Setting("glance_user", help="User name. `swift_user` when unset."),
        Setting("glance_password", help="Password. `swift_password` when unset.", secret=True),
        Setting("glance_tenant_name", help="Project. `swift_tenant_name` when unset."),
        Setting("glance_user_domain", help="Domain of the user. `swift_user_domain` when unset."),
        Setting("glance_project_domain", help="Domain of the project. `swift_project_domain` when unset."),
        Setting("glance_region_name", help="Region. `swift_region_name` when unset."),
        *(
            replace(setting, default=None, form="") if setting.name == "storage_path" else setting
            for setting in SwiftDriver.settings
        ),
    )

    def __init__(
        self,
        *,
        storage_alternate: str = "file",
        storage_path: str | None = None,
        glance_url: str | None = None,
        glance_authurl: str | None = None,
        glance_user: str | None = None,
        glance_password: str | None = None,
        glance_tenant_name: str | None = None,
        glance_user_domain: str | None = None,
        glance_project_domain: str | None = None,
        glance_region_name: str | None = None,
        **swift: Any,
    ) -> None:
        """
        Args:
            storage_path, swift: settings of the alternate; those of Keystone are defaults for Glance as well.

        Raises:
            ConfigError: the address of both Glance and Keystone is missing, a URL is malformed, or the alternate
                rejects its settings.
            StorageError: Glance or the alternate cannot be used.
        """
        for name, url in (
            ("glance_url", glance_url),
            ("glance_authurl", glance_authurl),
            ("swift_authurl", swift.get("swift_authurl")),
        ):
            check_url(name, url)
        authurl = glance_authurl or _keystone_of(swift)
        if not (authurl or glance_url):
            raise ConfigError("neither glance_url nor glance_authurl is set")
        identity = Identity(
            authurl=authurl,
            user=glance_user or swift.get("swift_user") or "",
            password=glance_password or swift.get("swift_password") or "",
            project=glance_tenant_name or swift.get("swift_tenant_name"),
            user_domain=glance_user_domain or swift.get("swift_user_domain", "Default"),
            project_domain=glance_project_domain or swift.get("swift_project_domain", "Default"),
            cacert=swift.get("swift_cacert"),
            insecure=swift.get("swift_insecure", False),
            timeout_seconds=swift.get("swift_timeout", 60),
        )
        images = GlanceImages(
            identity.session(),
            glance_url,
            region=glance_region_name or swift.get("swift_region_name"),
            interface=swift.get("swift_endpoint_type", "public"),
        )
        driver_class = drivers.load(storage_alternate)
        settings = {**swift, "storage_path": storage_path}
        defaults = {setting.keyword: setting.default for setting in driver_class.settings}
        options = {
            name: default if settings.get(name) is None else settings[name] for name, default in defaults.items()
        }
        self._alternate = driver_class(**options)
        self._layers = GlanceLayers(self._alternate, images)

    @property
    def capabilities(self) -> Capabilities:
        """Conditions as in the alternate, because a layer's version is that of its pointer."""
        alternate = self._alternate.capabilities
        return Capabilities(
            if_match=alternate.if_match,
            remove_if_match=alternate.remove_if_match,
            move_copies=True,
            min_chunk_bytes=5 * 1024 * 1024,
        )

    # ------------------------------------------------------------------------------------------- one file

    def get_content(self, path: str) -> bytes:
        """See :class:`StorageDriver`."""
        return self.get_versioned(path).content

    def get_versioned(self, path: str) -> Versioned:
        """See :class:`StorageDriver`; the version of a layer is that of its pointer."""

        def read(pointer: Pointer) -> Versioned:
            return Versioned(b"".join(self._layers.read(pointer, 0, None)), pointer.version or "")

        return self._with_pointer(path, read, self._alternate.get_versioned)

    def put_content(self, path: str, content: Bytes, *, if_match: str | None = None) -> None:
        """See :class:`StorageDriver`."""
        if self._is_layer(self._check(path)):
            self._layers.replace(path, self._layers.upload(path, [content]), if_match)
        else:
            self._alternate.put_content(path, content, if_match=if_match)

    def stream_read(self, path: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See :class:`StorageDriver`."""
        return self._with_pointer(
            path,
            lambda pointer: self._layers.read(pointer, offset, length),
            lambda path: self._alternate.stream_read(path, offset, length),
        )

    def stream_write(self, path: str, blocks: Iterable[Bytes]) -> int:
        """See :class:`StorageDriver`."""
        if not self._is_layer(self._check(path)):
            return self._alternate.stream_write(path, blocks)
        pointer = self._layers.upload(path, blocks)
        self._layers.replace(path, pointer)
        return pointer.size

    def stat(self, path: str) -> Stat:
        """See :class:`StorageDriver`."""

        def describe(pointer: Pointer) -> Stat:
            return Stat(path, pointer.size, self._alternate.stat(path + SUFFIX).modified)

        return self._with_pointer(path, describe, self._alternate.stat)

    def touch(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        self._with_pointer(path, lambda _: self._alternate.touch(path + SUFFIX), self._alternate.touch)

    def open_file(self, path: str) -> BinaryIO | None:
        """See :class:`StorageDriver`; None for a layer in Glance, which is not a local file."""
        return self._with_pointer(path, lambda _: None, self._alternate.open_file)

    def content_redirect_url(self, path: str) -> str | None:
        """See :class:`StorageDriver`; None for a layer in Glance, which has no signed URLs."""
        return self._with_pointer(path, lambda _: None, self._alternate.content_redirect_url)

    # ------------------------------------------------------------------------------------- files and folders

    def list_directory(self, path: str = "") -> Iterator[str]:
        """See :class:`StorageDriver`."""
        seen = set()
        for child in self._alternate.list_directory(self._check(path) if path else path):
            if child == RESERVED:
                continue
            layer_path = child.removesuffix(SUFFIX)
            if not self._is_layer(layer_path):
                yield child
            elif layer_path not in seen:  # a layer may also exist in the alternate, from before Glance was configured
                seen.add(layer_path)
                yield layer_path

    def folder_version(self, path: str) -> str | None:
        """See :class:`StorageDriver`."""
        version = self._alternate.folder_version(self._check(path) if path else path)
        return version or None  # report a missing folder as unknown

    def walk(self, path: str = "") -> Iterator[Stat]:
        """See :class:`StorageDriver`."""
        for stat in self._alternate.walk(self._check(path) if path else path):
            if stat.path.startswith(f"{RESERVED}/"):
                continue
            layer_path = stat.path.removesuffix(SUFFIX)
            pointer = pointers.find(self._alternate, layer_path) if self._is_layer(layer_path) else None
            if pointer is None:
                yield stat
            elif stat.path != layer_path:
                yield Stat(layer_path, pointer.size, stat.modified)

    def exists(self, path: str) -> bool:
        """See :class:`StorageDriver`."""
        in_glance = self._is_layer(self._check(path)) and self._alternate.exists(path + SUFFIX)
        return in_glance or self._alternate.exists(path)

    def move(self, source: str, target: str) -> None:
        """See :class:`StorageDriver`; a file that is moved to the path of a layer is sent to Glance."""
        self._check(source)
        if not self._is_layer(self._check(target)) and not self._is_layer(source):
            self._alternate.move(source, target)
            return
        if source == target:
            self.stat(source)
            return
        if self._is_layer(target):
            pointer = self._layers.find_before_move(source)
            if pointer is not None:
                self._layers.replace_by(target, lambda: self._alternate.move(source + SUFFIX, target + SUFFIX))
                return
        self.stream_write(target, self.stream_read(source))
        self.remove(source)

    def link(self, source: str, target: str) -> bool:
        """See :class:`StorageDriver`; two layers in Glance may share one image."""
        self._check(source)
        if not self._is_layer(self._check(target)) and not self._is_layer(source):
            return self._alternate.link(source, target)
        pointer = self._layers.mark_shared(source) if self._is_layer(target) else None
        if pointer is None:
            self.stat(source)
            return False
        self._layers.replace(target, pointer)
        return True

    def remove(self, path: str) -> None:
        """See :class:`StorageDriver`."""
        removed_pointers = list(self._pointers(self._check(path)))
        for _, pointer in removed_pointers:
            self._layers.tag_unreferenced(pointer)
        removed_files = 0
        for stored_path in (path + SUFFIX, path) if self._is_layer(path) else (path,):
            try:
                self._alternate.remove(stored_path)
                removed_files += 1
            except PathNotFound:
                continue
        if not removed_files:
            raise PathNotFound(path=path)
        for _, pointer in removed_pointers:
            self._layers.delete_image(pointer)

    def remove_if_match(self, path: str, version: str) -> None:
        """See :class:`StorageDriver`; the version of a layer is that of its pointer."""
        pointer = self._find(self._check(path))
        if pointer is None:
            self._alternate.remove_if_match(path, version)
            return
        self._layers.tag_unreferenced(pointer)
        self._alternate.remove_if_match(path + SUFFIX, version)
        self._layers.delete_image(pointer)

    def remove_leftovers(self, older_than_seconds: float) -> int:
        """See :class:`StorageDriver`; deletes unreferenced images, and the leftovers of the alternate."""
        return self._layers.sweep(older_than_seconds) + self._alternate.remove_leftovers(older_than_seconds)

    # ----------------------------------------------------------------------------------------------- pointers

    def _is_layer(self, path: str) -> bool:
        return pointers.is_layer(path)

    def _may_contain_layers(self, path: str) -> bool:
        return pointers.may_contain_layers(path)

    def _check(self, path: str) -> str:
        check_path(path)
        is_pointer = path.endswith(SUFFIX) and self._is_layer(path.removesuffix(SUFFIX))
        if is_pointer or path.partition("/")[0] == RESERVED:
            raise PathInvalid(path=path)
        return path

    def _find(self, path: str) -> Pointer | None:
        return self._layers.find(path) if self._is_layer(path) else None

    def _pointers(self, path: str) -> Iterator[tuple[str, Pointer]]:
        """Yield the path and the pointer of every layer in Glance at a path and below it."""
        pointer = self._find(path)
        if pointer is not None:
            yield path, pointer
        if self._may_contain_layers(path):
            yield from pointers.list_below(self._alternate, path)

    def _with_pointer(
        self, path: str, in_glance: Callable[[Pointer], Result], in_alternate: Callable[[str], Result]
    ) -> Result:
        """
        Call *in_glance* with the pointer of a path, or *in_alternate* with the path if it has no pointer.

        Retried while the pointer changes, because its image may be deleted at any moment.

        Raises:
            StorageError: the image of the current pointer does not exist, or the pointer changed too often.
        """
        self._check(path)
        for _ in range(MAX_ATTEMPTS):
            pointer = self._find(path)
            if pointer is None:
                return in_alternate(path)
            try:
                return in_glance(pointer)
            except (ImageMissing, PathNotFound):  # retry if the pointer was replaced or removed meanwhile
                if self._find(path) == pointer:
                    raise StorageError("Glance lost a layer.", path=path) from None
        raise StorageError("A layer was replaced repeatedly while it was read.", path=path)


def _keystone_of(swift: Mapping[str, Any]) -> str | None:
    """Return the URL of the Keystone that Swift uses; None if Swift uses another authentication service."""
    url = swift.get("swift_authurl")
    if not url:
        return None
    account = Account(authurl=url, user="", password="", auth_version=swift.get("swift_auth_version"))
    return url if account.uses_keystone else None
