"""Storage drivers: bytes under paths. Each is found by the name it has in the entry points of whoever brings it."""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import ConfigError

GROUP: Final = "docker_registry.drivers"

#: What is always there, also when the project runs from a checkout that nobody has installed.
_OWN: Final = {
    "file": "docker_registry.drivers.file:FileDriver",
    "memory": "docker_registry.drivers.memory:MemoryDriver",
}

_ALIASES: Final = {"azure": "azureblob", "local": "file"}

#: Drivers whose libraries not everyone needs, and the extras that bring them.
_EXTRAS: Final = {
    "azure": "azure",
    "azureblob": "azure",
    "gcs": "gcs",
    "glance": "glance",
    "s3": "s3",
    "swift": "swift",
}


def installed() -> dict[str, EntryPoint]:
    """Return the drivers that are installed, by name."""
    own = {name: EntryPoint(name, place, GROUP) for name, place in _OWN.items()}
    return own | {point.name: point for point in entry_points(group=GROUP)}


def load(name: str) -> type[StorageDriver]:
    """
    Import a driver, and no other.

    Args:
        name: as in the setting ``storage``; ``local`` is the old name of ``file``.

    Raises:
        ConfigError: it is not installed, or lacks a library; the sentence says what to install.
    """
    found = installed()
    point = found.get(_ALIASES.get(name, name))
    if point is None:
        raise ConfigError(
            f"The storage driver {name!r} is not installed (installed are {', '.join(sorted(found))}); {_advice(name)}."
        )
    try:
        driver = getattr(importlib.import_module(point.module), point.attr, None)
    except ImportError as error:
        raise ConfigError(f"The storage driver {name!r} cannot be imported: {error}; {_advice(name)}.") from None
    if not isinstance(driver, type) or not issubclass(driver, StorageDriver):
        raise ConfigError(f"The storage driver {name!r} ({point.value}) is not a StorageDriver.")
    return driver


def _advice(name: str) -> str:
    if name == "elliptics":
        return "nothing is published for Elliptics any more, docs/drivers.md says how to write a driver"
    if name in _EXTRAS:
        return f"try pip install 'docker-registry[{_EXTRAS[name]}]'"
    return f"try pip install docker-registry-driver-{name}"
