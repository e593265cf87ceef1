"""
What a setting is: one row with a name, a type, a default, a unit and a help text.

The registry's own rows are declared as fields in :mod:`docker_registry.config`, a driver's in its class:
``settings = (Setting(…), …)``. A row's type decides how its characters are read, wherever they come from; YAML's own
guesses (``0123`` is 83, ``no`` is false) are never asked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

import yaml

Declaration = TypeVar("Declaration")

#: What a setting may be, and how a sentence or a table says it.
TYPES: Final[Mapping[type, str]] = {
    str: "text",
    bool: "true or false",
    int: "whole number",
    float: "number",
    list: "list",
    Path: "path",
}

_BOOLEANS: Final = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True, slots=True)
class Setting:
    """
    One thing that an operator may set.

    Attributes:
        name: its key in the configuration file; ``cache.host`` is the key ``host`` in the section ``cache``.
        type: ``str``, ``bool``, ``int``, ``float``, ``pathlib.Path`` (made absolute, ``~`` expanded) or ``list`` (of
            texts, handed over as a tuple).
        default: what counts when nobody sets it; None means that it is off or unknown.
        help: one sentence for the documentation.
        unit: ``seconds``, ``bytes`` …, where the type is a number.
        secret: whether ``docker-registry config`` and every log must mask it.
        choices: the only values it takes, where there are few; upper and lower case are the same.
        minimum: the least value of a number.
    """

    name: str
    type: type = str
    default: Any = None
    help: str = ""
    unit: str = ""
    secret: bool = False
    choices: tuple[str, ...] = field(default=())
    minimum: int | None = None

    def __post_init__(self) -> None:
        if self.type not in TYPES:
            raise TypeError(f"setting {self.name}: {self.type!r} is not a type of settings")

    @property
    def keyword(self) -> str:
        """The keyword under which a driver's constructor receives it: its name, a dot becoming ``_``."""
        return self.name.replace(".", "_")

    def convert(self, raw: object) -> Any:
        """
        Turn what stands in the file or in the environment into a value of the declared type.

        Args:
            raw: characters, or a list of them; what else YAML can hold is refused.

        Raises:
            ValueError: it cannot be; the message ends a sentence that begins with the setting's name, and never
                shows the value, which may be a secret in the wrong place.
        """
        if self.type is list:
            return self._convert_list(raw)
        if not isinstance(raw, str):
            raise ValueError(f"must be {self._wanted()}, not a {_shape(raw)}")
        if self.type is Path:
            return _absolute(raw)
        if self.type is str:
            return self._choose(raw) if self.choices else raw
        return self._convert_scalar(raw.strip())

    def _convert_scalar(self, text: str) -> bool | int | float:
        if self.type is bool and text.lower() in _BOOLEANS:
            return _BOOLEANS[text.lower()]
        number: int | float = math.nan
        if self.type is int and _INTEGER.fullmatch(text):
            number = int(text)
        elif self.type is float and _FLOAT.fullmatch(text):
            number = float(text)
        if not math.isfinite(number) or (self.minimum is not None and number < self.minimum):
            raise ValueError(f"must be {self._wanted()}")
        return number

    def _convert_list(self, raw: object) -> tuple[str, ...]:
        if isinstance(raw, str):
            raw = _flow_list(raw) if raw.lstrip().startswith("[") else [item.strip() for item in raw.split(",")]
        if not isinstance(raw, list) or not all(isinstance(item, str) for item in raw):
            raise ValueError("must be a list of texts")
        return tuple(self._choose(item) if self.choices else item for item in raw)

    def _choose(self, text: str) -> str:
        for choice in self.choices:
            if text.strip().lower() == choice.lower():
                return choice
        raise ValueError(f"must be {self._wanted()}")

    def _wanted(self) -> str:
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        wanted = TYPES[self.type] if self.type is bool else f"a {TYPES[self.type]}"
        if self.unit:
            wanted += f" of {self.unit}"
        return wanted if self.minimum is None else f"{wanted}, at least {self.minimum}"


def setting(
    default: Any,
    help: str,  # noqa: A002 - the name of the row's column
    *,
    unit: str = "",
    secret: bool = False,
    choices: tuple[str, ...] = (),
    minimum: int | None = None,
) -> Any:
    """Declare a dataclass field as a setting; its name and its type are the field's own."""
    row = {"help": help, "unit": unit, "secret": secret, "choices": choices, "minimum": minimum}
    return field(default=default, metadata=row)


def rows(declaration: type, prefix: str = "") -> Iterator[Setting]:
    """Yield the row of every field that :func:`setting` declared, those of nested dataclasses (sections) too."""
    types = get_type_hints(declaration)
    for entry in fields(declaration):
        if is_dataclass(types[entry.name]):
            yield from rows(types[entry.name], f"{prefix}{entry.name}.")
        elif entry.metadata:
            yield Setting(prefix + entry.name, _plain_type(types[entry.name]), entry.default, **entry.metadata)


def fill(declaration: type[Declaration], values: Mapping[str, Any], prefix: str = "", **others: Any) -> Declaration:
    """
    Make a dataclass, and the sections in it, out of values by their dotted names; what has none keeps its default.

    Args:
        others: fields that are no settings.
    """
    types = get_type_hints(declaration)
    for entry in fields(declaration):  # type: ignore[arg-type] # only dataclasses are declarations
        name = prefix + entry.name
        if is_dataclass(types[entry.name]):
            others[entry.name] = fill(types[entry.name], values, f"{name}.")
        elif name in values:
            others[entry.name] = values[name]
    return declaration(**others)


def flatten(tree: Mapping[str, Any], known: Iterable[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """
    Yield the dotted names of a flavor and what stands there.

    Args:
        known: names of settings; what holds none of them is no section.
    """
    known = tuple(known)
    for key, value in tree.items():
        name = f"{prefix}{key}"
        is_section = any(row.startswith(f"{name}.") for row in known)
        if not is_section:
            yield name, value
        elif isinstance(value, dict):
            yield from flatten(value, known, f"{name}.")
        elif value is not None:  # an empty section sets nothing
            yield name, value


def _plain_type(annotation: Any) -> type:
    """``str | None`` is text that may be missing, ``tuple[str, …]`` is a list."""
    given = [option for option in get_args(annotation) if option is not type(None)]
    if get_origin(annotation) is tuple:
        return list
    plain: type = given[0] if given else annotation
    return plain


def _absolute(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise ValueError("begins with ~, but that user has no home folder") from None


def _flow_list(text: str) -> object:
    """Read a list as YAML writes it in one line, the way 0.9 took it from the environment."""
    try:
        return yaml.BaseLoader(text).get_single_data()
    except yaml.YAMLError:
        return None


def _shape(raw: object) -> str:
    return "list" if isinstance(raw, list) else "section" if isinstance(raw, dict) else "tagged value"
