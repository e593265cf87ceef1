"""
Variables of this registry without the prefix ``REGISTRY_``, such as STORAGE_PATH, beside those of registry:2.

Where no configuration file is given, both kinds apply together, unless they set the same thing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from docker_registry.config.distribution_keys import DRIVERS
from docker_registry.errors import ConfigError

_OTHER_DRIVERS: Final = tuple(f"storage.{driver}" for driver in DRIVERS if driver != "filesystem")

#: Keys of distribution's configuration that set the same as a setting or section of this registry.
_SAME: Final[Mapping[str, tuple[str, ...]]] = {
    "cache_lru": ("redis", "storage.cache"),
    "cors": ("http.headers",),
    "loglevel": ("log.level", "loglevel"),
    "mirroring": ("proxy",),
    "storage_page_cache": _OTHER_DRIVERS,
    "storage_path": ("storage.filesystem.rootdirectory", *_OTHER_DRIVERS),
    "storage_redirect": ("storage.redirect",),
}

#: Kubernetes sets SMTP_PORT to such a URL in every container of a namespace with a service called ``smtp``.
_KUBERNETES: Final = re.compile(r"[A-Z0-9_]+_PORT=(tcp|udp|sctp)://")


def settings_of_plain_variables(
    environ: Mapping[str, str], plain: Mapping[str, str], overridden: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """
    Yield the settings that variables without ``REGISTRY_`` set, with their values.

    Args:
        plain: these variables, with the setting of each.
        overridden: keys of distribution's configuration that variables set, with the variable of each.

    Raises:
        ConfigError: two variables set the same thing.
    """
    for name in sorted(plain):
        value, setting = environ.get(name, ""), plain[name]
        if not value or _KUBERNETES.match(f"{name}={value}"):
            continue
        for key, other in overridden.items():
            if any(_overlap(key, same) for same in _SAME.get(setting) or _SAME.get(setting.partition(".")[0], ())):
                raise ConfigError(f"{name} and {other} set the same: remove one of them")
        yield setting, value


def _overlap(key: str, other: str) -> bool:
    """Return whether one of two dotted names is the other, or a section that contains it."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")
