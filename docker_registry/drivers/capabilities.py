"""What a storage driver can do, and the names with which drivers for earlier versions of the interface declare it."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final


@dataclass(frozen=True, slots=True)
class Capabilities:
    """
    What a driver can do beyond the methods that every :class:`~docker_registry.drivers.base.StorageDriver` has.

    Attributes:
        if_match: ``put_content(if_match=…)`` works, across processes and hosts.
        remove_if_match: ``remove_if_match`` compares and removes in one step, across processes and hosts.
        move_copies: ``move`` copies all bytes, on the client or the server, so callers should write a file directly to
            its final path.
        pages: ``walk`` lists many files with each request to the backend, while ``exists`` costs one request per file.
        folder_versions: ``folder_version`` can return versions.
        tracks_dependencies: every method that reads records what it read as a dependency
            (:mod:`docker_registry.dependencies`). Responses are cached only then.
        min_chunk_bytes: the size below which an upload in chunks is inefficient; None if any size is efficient.
    """

    if_match: bool = False
    remove_if_match: bool = False
    move_copies: bool = False
    pages: bool = False
    folder_versions: bool = False
    tracks_dependencies: bool = False
    min_chunk_bytes: int | None = None


#: Attributes of :class:`Capabilities` by the class attributes with which older drivers declare them.
_OLD_FLAGS: Final = {
    "supports_if_match": "if_match",
    "supports_remove_if_match": "remove_if_match",
    "move_copies": "move_copies",
    "walks_by_pages": "pages",
    "notes_provenance": "tracks_dependencies",
    "min_chunk_bytes": "min_chunk_bytes",
}

#: Old names of methods that are still called if a driver overrides them.
_OLD_METHODS: Final = ("together", "short_lived")


class OldNames:
    """The names of earlier versions of the interface, which third-party drivers and wrappers of drivers may use."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Warn about old names in a subclass, and derive its capabilities from its old flags."""
        super().__init_subclass__(**options)
        _adapt_old_names(cls)

    def together(self: Any) -> AbstractContextManager[None]:
        """The old name of :meth:`~docker_registry.drivers.base.StorageDriver.batch`."""
        return self.batch()  # type: ignore[no-any-return]

    @property
    def short_lived(self: Any) -> Any:
        """The old name of :attr:`~docker_registry.drivers.base.StorageDriver.scratch`."""
        return self.scratch

    if not TYPE_CHECKING:  # no typed code should read old flags

        def __getattr__(self, name: str) -> Any:
            """Return a capability under the name of its old flag."""
            if name in _OLD_FLAGS:
                return getattr(self.capabilities, _OLD_FLAGS[name])
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)


def _adapt_old_names(driver_class: type[Any]) -> None:
    """Warn about old names in a class that is being defined, and derive its capabilities from its old flags."""
    old = [name for name in (*_OLD_FLAGS, *_OLD_METHODS) if name in vars(driver_class)]
    if old:
        warnings.warn(
            f"{driver_class.__name__} uses old names of StorageDriver: {', '.join(old)}. See docs/drivers.md.",
            DeprecationWarning,
            stacklevel=4,
        )
    if not _OLD_FLAGS.keys().isdisjoint(vars(driver_class)) and "capabilities" not in vars(driver_class):

        def capabilities(driver: Any) -> Capabilities:
            declared: Capabilities = super(driver_class, driver).capabilities
            return with_old_flags(driver, declared)

        driver_class.capabilities = property(capabilities)


def with_old_flags(driver: object, capabilities: Capabilities) -> Capabilities:
    """Return *capabilities*, overridden by the old flags that the driver's classes or the driver itself declare."""
    known: dict[Capabilities, Capabilities] = vars(driver).setdefault("_capabilities_by_default", {})
    if capabilities not in known:  # cached, because capabilities are read with every file
        declared = [old for old in _OLD_FLAGS if old in vars(driver) or hasattr(type(driver), old)]
        known[capabilities] = replace(capabilities, **{_OLD_FLAGS[old]: getattr(driver, old) for old in declared})
    return known[capabilities]
