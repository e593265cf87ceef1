"""Finds variables that have no effect: one with a typing error, or one that the configuration file does not name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
    tree = flavors.read_tree(flavors.locate(environ))
    if distribution.is_distribution(tree):
        return []
    flavor = flavors.read_flavor(environ)
    sample = flavors.read(flavors.folder() / flavors.SAMPLE)
    known = {*_named(sample), *_named(tree), *distribution.SERVER, "REGISTRY_PORT"}
    own = {name for name in environ if name.startswith(_PREFIX) and not distribution.KUBERNETES.match(name)}
    storage = flavor.look_up(flavor.tree.get("storage")) or "file"
    if "storage_path" not in flavor.tree and storage in ("file", "local"):
        own |= {_STORE} & set(environ)
    return [
        f"{name} has no effect: {flavor}, does not contain _env:{name}"
        if name in known
        else f"{name} has no effect: there is no such variable{_did_you_mean(name, known)}"
        for name in sorted(own.difference(_named(flavor.tree), distribution.SERVER))
        if environ[name]
    ]


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    # Without the prefix, by which all are alike.
    endings = {each.removeprefix(_PREFIX): each for each in known if each.startswith(_PREFIX)}
    return flavors.did_you_mean(name.removeprefix(_PREFIX), endings)


def _named(value: Any) -> Iterator[str]:
    """Yield the variables that values name."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _named(item)
    elif name := flavors.variable(value):
        yield name
