"""Storage drivers keep bytes under paths. Each is looked up by its name in the entry-point group :data:`GROUP`."""

from __future__ import annotations

import difflib
import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import ConfigError

GROUP: Final = "docker_registry.drivers"

#: Drivers that are available even when the project runs from a checkout without being installed.
_OWN: Final = {
    "file": "docker_registry.drivers.file:FileDriver",
    "memory": "docker_registry.drivers.memory:MemoryDriver",
}

_ALIASES: Final = {"azure": "azureblob", "local": "file"}

#: Drivers that need optional libraries, and the extras that install those.
_EXTRAS: Final = {
    "azure": "azure",
    "azureblob": "azure",
    "gcs": "gcs",
    "glance": "glance",
    "s3": "s3",
    "swift": "swift",
}


def installed() -> dict[str, EntryPoint]:
    """Return the installed drivers by name."""
    own = {name: EntryPoint(name, target, GROUP) for name, target in _OWN.items()}
    return own | {point.name: point for point in entry_points(group=GROUP)}


def load(name: str) -> type[StorageDriver]:
    """
    Import a driver by name; no other driver is imported.

    Args:
        name: as in the setting ``storage``; ``local`` and ``azure`` are aliases of ``file`` and ``azureblob``.

    Raises:
        ConfigError: the driver is not installed, cannot be imported (the message says what to install), or is not a
            :class:`StorageDriver`.
    """
    found = installed()
    point = found.get(_ALIASES.get(name, name))
    if point is None:
        raise ConfigError(
            f"The storage driver {name!r} is not installed (installed are {', '.join(sorted(found))}); {_advice(name)}"
        )
    try:
        driver = getattr(importlib.import_module(point.module), point.attr, None)
    except ImportError as error:
        raise ConfigError(f"The storage driver {name!r} cannot be imported: {error}; {_advice(name)}") from None
    if not isinstance(driver, type) or not issubclass(driver, StorageDriver):
        raise ConfigError(f"The storage driver {name!r} ({point.value}) is not a StorageDriver.")
    return driver


def _advice(name: str) -> str:
    if name == "elliptics":
        return "nothing is published for Elliptics any more, docs/drivers.md says how to write a driver."
    if name in _EXTRAS:
        return f"try pip install 'docker-registry[{_EXTRAS[name]}]'."
    package = f"try pip install docker-registry-driver-{name}."
    nearest = difflib.get_close_matches(name, [*installed(), *_ALIASES], n=1)
    if nearest and nearest[0] != name:  # else the driver is there and lacks a library
        return f"did you mean {nearest[0]}? If not, {package}"
    return package
