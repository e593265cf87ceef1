"""
The configuration file: locates and parses it, and returns one of its flavors.

::

    common:                       # base of every flavor
        loglevel: info
        cache:
            host: _env:REDIS      # the variable REDIS; unset if the variable is not set
    prod:                         # SETTINGS_FLAVOR=prod
        storage: _env:STORAGE:s3  # the variable STORAGE, else s3

A flavor's sections are merged into those of ``common`` key by key; all other values, including lists, replace those of
``common``. YAML anchors and ``<<`` work as well, so a file may also consist of self-contained flavors.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from docker_registry.config import distribution
from docker_registry.config.distribution_sections import Translation
from docker_registry.config.distribution_values import TOO_DEEP, is_too_deep
from docker_registry.errors import ConfigError
from docker_registry.settings import check_header

logger = logging.getLogger(__name__)

SAMPLE: Final = "config_sample.yml"
#: The file of the image registry:2, where variables alone configure the registry.
DISTRIBUTION_SAMPLE: Final = "distribution.yml"
COMMON: Final = "common"
DEFAULT_FLAVOR: Final = "dev"

_ENV: Final = "_env:"
_RESOLVED_TAGS: Final = {"tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"}
#: Explicit tags, such as ``!!int``, that change nothing: their scalars are read as text, too.
_TEXT_TAGS: Final = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "timestamp"))


@dataclass(frozen=True, slots=True)
class Flavor:
    """
    One flavor of a configuration file, with ``common`` merged in.

    Attributes:
        path: the file.
        name: name of the flavor.
        tree: values by key: strings, None, lists and nested sections; ``_env:`` values are not replaced yet.
        environ: environment variables for :meth:`look_up`.
    """

    path: Path
    name: str
    tree: Mapping[str, Any]
    environ: Mapping[str, str] = field(repr=False)

    def look_up(self, raw: Any) -> Any:
        """
        Replace ``_env:VARIABLE[:DEFAULT]`` by the variable's value, verbatim; an empty result becomes None, unset.

        A variable that is set but empty overrides DEFAULT, so that an operator can unset the value.
        """
        if isinstance(raw, list):
            items = [self.look_up(item) for item in raw]
            return [item for item in items if item is not None]
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
    Read the flavor ``SETTINGS_FLAVOR`` from the file ``DOCKER_REGISTRY_CONFIG``.

    A file of the CNCF distribution registry is translated; it has no flavors.

    Raises:
        ConfigError: the file does not exist, is not valid YAML, or has no such flavor.
    """
    path = locate(environ)
    tree = read_tree(path)
    if distribution.is_distribution(tree):
        translation = translate(tree, environ, path)
        if translation.ignored:
            logger.warning("%s: ignored keys and variables: %s", path, ", ".join(translation.ignored))
        return Flavor(path, distribution.FLAVOR, translation.settings, environ)
    flavors = _flavors(tree)
    name = environ.get("SETTINGS_FLAVOR") or DEFAULT_FLAVOR
    if name not in flavors:
        available = ", ".join(flavors) or "none: flavors are sections at the outermost level of the file"
        raise ConfigError(
            f"{path} has no flavor {name} (SETTINGS_FLAVOR; there is {available})"
            + did_you_mean(name, {flavor: flavor for flavor in flavors})
        )
    try:
        check_header(name)  # responses name it
    except ValueError as error:
        raise ConfigError(f"{path}: the name of the flavor (SETTINGS_FLAVOR) {error}") from None
    return Flavor(path, name, merge(flavors.get(COMMON, {}), flavors[name]), environ)


def translate(tree: Mapping[str, Any], environ: Mapping[str, str], path: Path) -> Translation:
    """
    Translate a file of the CNCF distribution registry; see :func:`docker_registry.config.distribution.translate`.

    Variables of the sample that begin with ``REGISTRY_`` keep their meaning; the others apply beside the file of
    registry:2 only.
    """
    sample = read(folder() / SAMPLE)
    own = {name: setting for setting, name in _variables(sample.get(COMMON, {}))}
    plain: dict[str, str] = {}
    if path == folder() / DISTRIBUTION_SAMPLE:
        known = {name: setting for setting, name in _variables(sample.get("local", {}))} | own
        plain = {name: setting for name, setting in known.items() if not name.startswith("REGISTRY_")}
    return distribution.translate(tree, environ, own, path, plain)


def server_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """
    Return the variables of the server that a file of the CNCF distribution registry sets and the environment does not.

    Raises:
        ConfigError: the file cannot be read or used.
    """
    path = locate(environ)
    tree = read_tree(path)
    if not distribution.is_distribution(tree):
        return {}
    wanted = translate(tree, environ, path).environment
    return {name: value for name, value in wanted.items() if not _is_set(environ.get(name, ""))}


def _is_set(value: str) -> bool:
    return bool(value) and not value.startswith("tcp://")  # as Kubernetes sets REGISTRY_PORT


def _variables(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted names of settings with the variables that set them."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _variables(value, f"{prefix}{key}.")
        elif name := variable(value):
            yield f"{prefix}{key}", name


def folder() -> Path:
    """Return the folder of the sample configuration: inside an installed package, or ``config/`` of a clone."""
    package = Path(__file__).parent.parent
    sample_folder = package / "sample"
    return sample_folder if sample_folder.is_dir() else package.parent / "config"


def locate(environ: Mapping[str, str]) -> Path:
    """Return the path of the configuration file, whether or not the file exists."""
    configured = environ.get("DOCKER_REGISTRY_CONFIG")
    if configured:
        return folder() / os.path.expanduser(configured)
    local_file = folder() / "config.yml"
    return local_file if local_file.exists() else folder() / SAMPLE


def read(path: Path) -> dict[str, dict[str, Any]]:
    """
    Return the flavors of a file, by name.

    Raises:
        ConfigError: the file cannot be read or is not valid YAML.
    """
    return _flavors(read_tree(path))


def read_tree(path: Path) -> dict[str, Any]:
    """
    Return the content of a file, every scalar as text; empty if it is no mapping.

    Raises:
        ConfigError: the file cannot be read, is not valid YAML, or is nested too deeply.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror} (DOCKER_REGISTRY_CONFIG chooses the file)"
        ) from None
    try:
        tree = _parse(content)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {_describe_error(error)}") from None
    except RecursionError:
        raise ConfigError(f"{path} {TOO_DEEP}") from None
    if is_too_deep(tree):
        raise ConfigError(f"{path} {TOO_DEEP}")
    return tree if isinstance(tree, dict) else {}


def _parse(content: bytes) -> object:
    """
    Return the content of a YAML document, every scalar as text.

    A start parses its file five times, and with libyaml in a sixth of the time. PyYAML's own parser, whose errors do
    not depend on whether libyaml is there, describes what is wrong with a file. It also parses a file with tabs, which
    it accepts in fewer places than libyaml: whether a file is valid must not depend on how PyYAML was built.
    """
    if b"\t" not in content:
        with suppress(yaml.YAMLError):
            return _FastTextLoader(content).get_single_data()
    return _TextLoader(content).get_single_data()


def _flavors(tree: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    # An empty flavor (`dev:`) consists of `common` alone.
    flavors = {name: {} if flavor is None else flavor for name, flavor in tree.items()}
    return {name: flavor for name, flavor in flavors.items() if isinstance(name, str) and isinstance(flavor, dict)}


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Return *base* overridden by *override*: sections in both are merged, other values of *override* replace."""
    merged = dict(base)
    for key, value in override.items():
        base_value = merged.get(key)
        merged[key] = merge(base_value, value) if isinstance(base_value, dict) and isinstance(value, dict) else value
    return merged


def variable(raw: object) -> str | None:
    """Return the variable name of an ``_env:`` value; None for any other value."""
    return raw[len(_ENV) :].partition(":")[0] if isinstance(raw, str) and raw.startswith(_ENV) else None


def did_you_mean(name: str, known: Mapping[str, str]) -> str:
    """
    Return a suffix for an error message that suggests the closest known name; empty if none is close.

    Args:
        name: the unknown name.
        known: valid names, each with the text to show for it.
    """
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {known[nearest[0]]}?" if nearest else ""


#: Only null and ``<<`` are resolved; the declared type of a setting decides how its text is converted.
_TEXT_RESOLVERS: Final = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _RESOLVED_TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}

_TEXT_CONSTRUCTORS: Final[dict[Any, Any]] = {
    **yaml.SafeLoader.yaml_constructors,
    **dict.fromkeys(_TEXT_TAGS, yaml.SafeLoader.construct_scalar),
}


class _TextLoader(yaml.SafeLoader):
    """A safe YAML loader that leaves every scalar a string, exactly as written."""

    yaml_implicit_resolvers = _TEXT_RESOLVERS
    yaml_constructors = _TEXT_CONSTRUCTORS

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Reject duplicate keys, of which PyYAML would silently drop the first."""
        node = super().compose_mapping_node(anchor)
        _reject_duplicates(node)
        return node


class _FastTextLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same, with the parser of libyaml if PyYAML was built with it."""

    yaml_implicit_resolvers = _TEXT_RESOLVERS
    yaml_constructors = _TEXT_CONSTRUCTORS

    def get_single_node(self) -> yaml.Node | None:
        """Reject duplicate keys of all mappings."""
        root: yaml.Node | None = super().get_single_node()
        nodes, seen = [root], set()
        while nodes:
            node = nodes.pop()
            if id(node) in seen:  # an alias may lead to a node that contains it
                continue
            seen.add(id(node))
            if isinstance(node, yaml.MappingNode):
                _reject_duplicates(node)
                nodes += [part for pair in node.value for part in pair]
            elif isinstance(node, yaml.SequenceNode):
                nodes += node.value
        return root


def _reject_duplicates(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
            continue
        if key.value in seen:
            name = key.value if re.fullmatch(r"[\w.-]+", key.value) else "a key"
            raise yaml.composer.ComposerError(None, None, f"{name} is duplicated", key.start_mark)
        seen.add(key.value)


def _describe_error(error: yaml.YAMLError) -> str:
    """Return the error and its line without quoting the file, whose line may hold a password."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return "it contains control characters, or is not UTF-8"
    problem = ", ".join(part for part in (error.context, error.problem) if part)
    # PyYAML quotes text of the file, by repr(), only after these words.
    problem = re.sub(r"(alias|anchor|tag|handle) ['\"].*", r"\1", problem, flags=re.DOTALL)
    return f"line {error.problem_mark.line + 1}: {problem}"
