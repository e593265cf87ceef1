"""
The configuration file: where it lies, how it is read, and what one of its flavors says.

::

    common:                       # lies under every flavor
        loglevel: info
        cache:
            host: _env:REDIS      # the variable REDIS, and nothing at all when nobody sets it
    prod:                         # SETTINGS_FLAVOR=prod
        storage: _env:STORAGE:s3  # the variable STORAGE, else s3

A flavor's sections are laid over those of ``common`` key by key; everything else, lists too, replaces. YAML's own
anchors and ``<<`` work as well, so a file in which every flavor carries all it needs is just as good.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from docker_registry.errors import ConfigError

SAMPLE: Final = "config_sample.yml"
COMMON: Final = "common"
DEFAULT_FLAVOR: Final = "dev"

_ENV: Final = "_env:"
_UNGUESSED: Final = {"tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"}


@dataclass(frozen=True, slots=True)
class Flavor:
    """
    What a file says under one flavor, ``common`` included.

    Attributes:
        path: the file.
        name: the flavor's.
        tree: texts, None, lists and nested sections, by their keys; ``_env:`` as it stands there.
        environ: where :meth:`look_up` looks.
    """

    path: Path
    name: str
    tree: Mapping[str, Any]
    environ: Mapping[str, str] = field(repr=False)

    def look_up(self, raw: Any) -> Any:
        """
        Replace ``_env:VARIABLE[:DEFAULT]`` by its characters, as they are; what stays empty is None, no value at all.

        A variable that is set but empty beats DEFAULT: that is how an operator takes it back.
        """
        if isinstance(raw, list):
            found = [self.look_up(item) for item in raw]
            return [item for item in found if item is not None]
        if isinstance(raw, dict):
            return {key: self.look_up(value) for key, value in raw.items()}
        name = variable(raw)
        if name is None:
            return None if raw == "" else raw
        return self.environ.get(name, raw[len(_ENV) + len(name) + 1 :]) or None

    def __str__(self) -> str:
        return f"{self.path}, flavor {self.name}"


def read_flavor(environ: Mapping[str, str]) -> Flavor:
    """
    Read the file of ``DOCKER_REGISTRY_CONFIG``, and in it the flavor of ``SETTINGS_FLAVOR``.

    Raises:
        ConfigError: there is no such file, it is not YAML, or has no such flavor.
    """
    path = locate(environ)
    flavors = read(path)
    name = environ.get("SETTINGS_FLAVOR") or DEFAULT_FLAVOR
    if name not in flavors:
        there = ", ".join(flavors) or "none: flavors are sections at the outermost level of the file"
        raise ConfigError(
            f"{path} has no flavor {name} (SETTINGS_FLAVOR; there is {there})"
            + did_you_mean(name, {flavor: flavor for flavor in flavors})
        )
    return Flavor(path, name, merge(flavors.get(COMMON, {}), flavors[name]), environ)


def folder() -> Path:
    """Return the folder of the sample: inside an installed package, ``config/`` in a clone."""
    package = Path(__file__).parent
    installed = package / "sample"
    return installed if installed.is_dir() else package.parent / "config"


def locate(environ: Mapping[str, str]) -> Path:
    """Return the path of the configuration file, whether or not it is there."""
    named = environ.get("DOCKER_REGISTRY_CONFIG")
    if named:
        return folder() / Path(named).expanduser()
    own = folder() / "config.yml"
    return own if own.exists() else folder() / SAMPLE


def read(path: Path) -> dict[str, dict[str, Any]]:
    """
    Return the flavors of a file by their names.

    Raises:
        ConfigError: it cannot be read, or is not YAML of the kind we take.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror} (DOCKER_REGISTRY_CONFIG chooses the file)"
        ) from None
    try:
        loader = _TextLoader(content)
        tree = loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not good YAML: {_without_content(error)}") from None
    if not isinstance(tree, dict):
        return {}
    # An empty flavor (`dev:`) stands on `common` alone.
    flavors = {name: {} if flavor is None else flavor for name, flavor in tree.items()}
    return {name: flavor for name, flavor in flavors.items() if isinstance(name, str) and isinstance(flavor, dict)}


def merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one section over another: sections in both are merged, everything else of *upper* replaces."""
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def variable(raw: object) -> str | None:
    """Return the name of the variable that a text of the file asks for."""
    return raw[len(_ENV) :].partition(":")[0] if isinstance(raw, str) and raw.startswith(_ENV) else None


def did_you_mean(name: str, known: Mapping[str, str]) -> str:
    """
    Return the end of a sentence that names what is nearest to a wrong name; empty when nothing is near.

    Args:
        known: good names, and how each of them is to be shown.
    """
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {known[nearest[0]]}?" if nearest else ""


class _TextLoader(yaml.SafeLoader):
    """
    Reads YAML safely, and leaves every scalar the text that the operator wrote.

    Only null and ``<<`` keep their meaning; what a text stands for is decided by the setting's declared type.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own attribute
        first: [(tag, pattern) for tag, pattern in resolvers if tag in _UNGUESSED]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse a key that is there twice, of which YAML would silently drop the first."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            if key.value in seen:
                name = key.value if re.fullmatch(r"[\w.-]+", key.value) else "a key"
                raise yaml.composer.ComposerError(None, None, f"{name} is there twice", key.start_mark)
            seen.add(key.value)
        return node


def _without_content(error: yaml.YAMLError) -> str:
    """Say what is wrong and where, but quote nothing of the file: the line may hold a password."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return "it holds characters that are not UTF-8 text"
    problem = ", ".join(part for part in (error.context, error.problem) if part)
    # Only these words are followed by a word of the file; the quotes are those of repr().
    problem = re.sub(r"(alias|anchor|tag|handle) ['\"].*", r"\1", problem, flags=re.DOTALL)
    return f"line {error.problem_mark.line + 1}: {problem}"
