"""Reads the YAML of a rules file, so that every error names the line."""

from __future__ import annotations

from pathlib import Path

import yaml

from docker_registry.errors import ConfigError


class Section:
    """
    A mapping in the file.

    Attributes:
        line: its first line, from 1.
    """

    def __init__(self, path: Path, node: yaml.Node | None) -> None:
        self._path = path
        self.line = 1 if node is None else node.start_mark.line + 1
        self._entries: dict[str, yaml.Node] = {}
        if node is None:
            return
        if not isinstance(node, yaml.MappingNode):
            raise self.error("must be a section, KEY: VALUE")
        for key, value in node.value:
            name = str(key.value)
            if name in self._entries:
                raise self.error(f"{name[:100]} is duplicated")
            self._entries[name] = value

    def error(self, sentence: str, node: yaml.Node | None = None) -> ConfigError:
        """Return an error that names the file and the line."""
        line = self.line if node is None else node.start_mark.line + 1
        return ConfigError(f"{self._path}, line {line}: {sentence}")

    def error_in(self, key: str, sentence: str) -> ConfigError:
        """Return an error that names the file and the line of a key's value."""
        return self.error(f"{key[:100]}: {sentence}", self._entries[key])

    def has(self, key: str) -> bool:
        """Return whether a key is present."""
        return key in self._entries

    @property
    def keys(self) -> list[str]:
        """All its keys."""
        return list(self._entries)

    def check_keys(self, *known: str) -> None:
        """
        Raises:
            ConfigError: there is a key with another name.
        """
        for name, node in self._entries.items():
            if name not in known:
                raise self.error(f"there is no key {name[:100]}; known are {', '.join(known)}", node)

    def texts(self, key: str) -> tuple[str, ...]:
        """
        Return a list of texts that must be present and not empty.

        Raises:
            ConfigError: it is missing, empty, or something else.
        """
        node = self._entries.get(key)
        if node is None:
            raise self.error(f"{key} is missing")
        return self._texts(key, node)

    def section(self, key: str) -> Section:
        """Return an inner section; an empty one if the key is missing."""
        return Section(self._path, self._entries.get(key))

    def sections(self, key: str) -> list[Section]:
        """Return a list of sections; empty if the key is missing."""
        node = self._entries.get(key)
        if node is None:
            return []
        if not isinstance(node, yaml.SequenceNode):
            raise self.error(f"{key} must be a list", node)
        return [Section(self._path, item) for item in node.value]

    def _texts(self, key: str, node: yaml.Node) -> tuple[str, ...]:
        items = node.value if isinstance(node, yaml.SequenceNode) else []
        if not items or not all(isinstance(item, yaml.ScalarNode) and item.value for item in items):
            raise self.error(f"{key} must be a list of texts", node)
        return tuple(str(item.value) for item in items)


def read(content: bytes, path: Path) -> Section:
    """
    Parse a file into its outermost section.

    Raises:
        ConfigError: it is not valid YAML, or contains more than one document.
    """
    try:
        text = content.decode()
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8") from None
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        prefix = f"{path}, line {mark.line + 1}" if mark is not None else str(path)
        raise ConfigError(f"{prefix}: {getattr(error, 'problem', None) or 'the YAML is not valid'}") from None
    return Section(path, node)
