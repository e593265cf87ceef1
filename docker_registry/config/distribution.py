"""
Configuration files of the CNCF distribution registry (registry:2 and registry:3): ``version: 0.1``.

A file is translated into settings of this registry: the keys that :mod:`.distribution_keys` lists one by one, then the
sections whose keys depend on each other (:mod:`.distribution_sections`). A key that would be dangerous to ignore
prevents the start.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import yaml

from docker_registry.config.distribution_keys import DRIVERS, KEYS, NOT_NEEDED, NOT_SUPPORTED, REFUSED, SAME, Key
from docker_registry.config.distribution_sections import SECTIONS, Translation, is_cloudfront
from docker_registry.config.distribution_values import TOO_DEEP, is_too_deep, text
from docker_registry.config.plain_variables import settings_of_plain_variables
from docker_registry.errors import ConfigError

#: Name of the flavor into which a file is translated.
FLAVOR: Final = "distribution"

_PREFIX: Final = "REGISTRY_"

#: Variables that Kubernetes sets in every container of a namespace for a service ``registry`` or ``registry-…``.
KUBERNETES: Final = re.compile(
    r"REGISTRY_([A-Z0-9_]+_)?(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT(_[0-9]+_(TCP|UDP|SCTP)(_[A-Z]+)?)?)$"
)


#: Variables of this registry's server, which are no settings.
SERVER: Final = {"REGISTRY_HOST", "REGISTRY_MAX_CONNECTIONS_PER_ADDRESS"}

#: Sections whose unknown keys prevent the start, as ignoring them may open the registry.
_STRICT: Final = ("auth", "http.tls", "proxy", "storage.maintenance.readonly")


def is_distribution(tree: Mapping[str, Any]) -> bool:
    """Return whether the content of a file is distribution's: its ``version`` is text, not a flavor of that name."""
    return isinstance(tree.get("version"), str)


def translate(
    tree: Mapping[str, Any],
    environ: Mapping[str, str],
    own: Mapping[str, str],
    path: Path,
    plain: Mapping[str, str] = MappingProxyType({}),
) -> Translation:
    """
    Translate a file, with its defaults, and the variables that override its keys.

    Args:
        tree: content of the file; every scalar is text.
        environ: ``REGISTRY_`` followed by the path of a key overrides that key.
        own: variables of this registry, with the setting of each; those with ``REGISTRY_`` keep their meaning.
        path: of the file, for messages.
        plain: the same for variables without that prefix; empty if they do not apply to this file.

    Raises:
        ConfigError: a key cannot be honoured and is dangerous to ignore, or has an invalid value.
    """
    if tree["version"] != "0.1":
        raise ConfigError(f"{path}: version {tree['version']} is unknown; distribution's configuration has 0.1")
    translation = Translation()
    content: dict[str, Any] = dict(tree)
    overridden, unknown = _override(content, environ, own)
    try:
        _translate(dict(_flatten(content)), translation)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    translation.ignored += [f"{name} (an unknown variable)" for name in unknown]
    for name in sorted(set(own) & set(environ)):
        if name.startswith(_PREFIX) and environ[name]:
            translation.set(own[name], environ[name])
    for setting, value in settings_of_plain_variables(environ, plain, overridden):
        translation.set(setting, value)
    return translation


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a tree by their dotted names; sections that KEYS lists are values."""
    for name, value in tree.items():
        dotted = f"{prefix}{name}"
        has_children = any(key.startswith(f"{dotted}.") for key in KEYS)
        if isinstance(value, dict) and (has_children or dotted not in KEYS):
            if not value and dotted.startswith(("storage.", "auth.")):
                yield dotted, None
            yield from _flatten(value, f"{dotted}.")
        else:
            yield dotted, value


def _override(
    tree: dict[str, Any], environ: Mapping[str, str], own: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Apply variables to a tree; return the keys that they set, and the names of those that match no key."""
    names = {
        ".".join(parts[:count]) for key in KEYS for parts in [key.split(".")] for count in range(1, len(parts) + 1)
    }
    paths = {_variable(name): name for name in names}
    strict = [
        _variable(name) + "_" for name in (*_STRICT, *(key.name for key in KEYS.values() if key.verdict == REFUSED))
    ]
    overridden: dict[str, str] = {}
    unknown = []
    for variable in sorted(environ):
        if not variable.startswith(_PREFIX) or KUBERNETES.match(variable) or variable in SERVER:
            continue
        if variable in own and paths.get(variable[len(_PREFIX) :]) not in SAME:
            continue
        name, index = variable[len(_PREFIX) :], None
        if name not in paths and (found := re.fullmatch(r"(.+)_([0-9]+)", name)):
            name, index = found[1], int(found[2])
        if name not in paths:
            if name.startswith(tuple(strict)):
                raise ConfigError(f"{variable} names an unknown key, and is dangerous to ignore")
            unknown.append(variable)
            continue
        overridden[_put(tree, paths[name].split("."), index, _parse(variable, environ[variable]))] = variable
    return overridden, unknown


def _variable(name: str) -> str:
    return name.upper().replace(".", "_")


def _put(tree: dict[str, Any], path: list[str], index: int | None, value: Any) -> str:
    """Set a key, or an item of its list; return the dotted name of what was set."""
    dotted = ".".join(path)
    for name in path[:-1]:
        if not isinstance(tree.get(name), dict):
            tree[name] = {}
        section = dict(tree[name])
        tree[name] = section
        tree = section
    if index is not None:
        present = tree.get(path[-1]) or []
        items = [*present] if isinstance(present, list) else [present]
        items[index : index + 1] = [value]
        value = items
    elif isinstance(value, str) and path in (["storage"], ["auth"]):
        dotted = f"{dotted}.{value}"
        value = {value: {}}  # REGISTRY_AUTH=htpasswd names the section
    tree[path[-1]] = value
    return dotted


def _parse(variable: str, text: str) -> Any:
    """Parse a variable as YAML, with every scalar left a string."""
    try:
        tree = yaml.load(text, yaml.BaseLoader)  # noqa: S506 - the safe loader without types
    except yaml.YAMLError:
        raise ConfigError(f"{variable} is not valid YAML") from None
    except RecursionError:
        raise ConfigError(f"{variable} {TOO_DEEP}") from None
    if is_too_deep(tree):
        raise ConfigError(f"{variable} {TOO_DEEP}")
    return tree


def _translate(given: dict[str, Any], translation: Translation) -> None:
    for name, value in given.items():
        key = _key_of(name)
        if key is None and name.startswith(tuple(f"{section}." for section in _STRICT)):
            raise ValueError(f"{name} is unknown, and dangerous to ignore")
        if key is None:
            translation.ignored.append(f"{name} (unknown)")
        elif key.verdict == REFUSED and not (name == "middleware.storage" and is_cloudfront(value)):
            if value not in (None, [], {}) and text(value) not in key.accepted:
                raise ValueError(f"{name} cannot be honoured. {key.note}")
        elif key.verdict == NOT_SUPPORTED and value not in (None, [], {}):
            translation.ignored.append(f"{name} ({key.note.rstrip('.')})")
        elif name in SAME and value is not None:
            translation.set(SAME[name], value)
    for section in SECTIONS:
        section(given, translation)


def _key_of(name: str) -> Key | None:
    """Return the declaration of a key, or of the section that is handled as a whole and contains it."""
    if name in KEYS:
        return KEYS[name]
    if name in ("auth", "auth.htpasswd", "auth.token", "storage", *(f"storage.{driver}" for driver in DRIVERS)):
        return Key(name, NOT_NEEDED, "")  # an empty section
    while "." in name:
        name = name.rpartition(".")[0]
        if name in KEYS:
            return KEYS[name] if KEYS[name].verdict in (REFUSED, NOT_SUPPORTED) else None
    return None
