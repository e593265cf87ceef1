"""Finds variables that have no effect: one with a typing error, or one that the configuration file does not name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from docker_registry.config import distribution, flavors

_PREFIX: Final = "REGISTRY_"
_STORE: Final = "STORAGE_PATH"


def unused_variables(environ: Mapping[str, str]) -> list[str]:
    """
    Return a sentence for each variable of this registry that the environment sets without effect.

    These are ``REGISTRY_…`` and, where the default store would be used, ``STORAGE_PATH``. Files of the CNCF
    distribution registry have a warning of their own.

    Raises:
        ConfigError: the configuration file cannot be read or used.
    """
    if distribution.is_distribution(flavors.read_tree(flavors.locate(environ))):
        return []
    flavor = flavors.read_flavor(environ)
    sample = set(_named(flavors.read(flavors.folder() / flavors.SAMPLE))) | distribution.SERVER | {"REGISTRY_PORT"}
    used = set(_named(flavor.tree)) | distribution.SERVER
    own = {name for name in environ if name.startswith(_PREFIX) and not distribution.KUBERNETES.match(name)}
    if "storage_path" not in flavor.tree and flavor.tree.get("storage", "file") in ("file", "local"):
        own |= {_STORE} & set(environ)
    return [
        f"{name} has no effect: {flavor.path} does not contain _env:{name}"
        if name in sample
        else f"{name} has no effect: there is no such variable"
        + flavors.did_you_mean(name, {known: known for known in sample if known.startswith(_PREFIX)})
        for name in sorted(own - used)
        if environ[name]
    ]


def _named(value: Any) -> Iterator[str]:
    """Yield the variables that values name."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _named(item)
    elif name := flavors.variable(value):
        yield name
