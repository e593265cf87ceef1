"""
Settings: their declaration, and the conversion of text to values.

The registry declares its settings as fields in :mod:`docker_registry.config.schema`, a driver in its class:
``settings = (Setting(…), …)``. The declared type determines how text is parsed, whatever its source. YAML's implicit
types (``0123`` is 83, ``no`` is false) are not used.
"""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

import yaml

Declaration = TypeVar("Declaration")

#: A dataclass whose fields are settings.
Section = type

#: The types of settings, and their names in messages and tables.
TYPES: Final[Mapping[type, str]] = {
    str: "text",
    bool: "true or false",
    int: "whole number",
    float: "number",
    list: "list",
    dict: "map",
    Path: "path",
}

#: Suffixes of durations and sizes, and their factors.
_SUFFIXES: Final[Mapping[str, Mapping[str, int]]] = {
    "seconds": {"s": 1, "m": 60, "h": 3600, "d": 86400},
    "bytes": {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4},
}

#: Values of both forms for error messages.
_EXAMPLES: Final[Mapping[str, str]] = {"seconds": "3600 or 1h", "bytes": "16777216 or 16MiB"}

#: Texts of true and false, in lower case.
BOOLEANS: Final = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
#: The longest duration, a century; a longer one means "for ever" and becomes this one. Timers and dates of Python do
#: not take the largest numbers.
MAX_SECONDS: Final = 36500 * 86400

_NOT_IN_HEADERS: Final = re.compile(r"[^\t -~\x80-\xff]"), "contains a character that HTTP headers cannot contain"

#: By the form of texts, patterns of what they must not contain, each with the message.
_FORMS: Final = {
    "sent": ((re.compile(r"[\udc80-\udcff]"), "is not UTF-8"),),
    "header": (_NOT_IN_HEADERS,),
    "word": (_NOT_IN_HEADERS, (re.compile(r"\s"), "contains a space; entries are separated by commas")),
}

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_QUANTITY = re.compile(r"([0-9]{1,15}) ?([A-Za-z]{1,3})")
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True, slots=True)
class Setting:
    """
    One setting.

    Attributes:
        name: its key in the configuration file; ``cache.host`` is the key ``host`` in the section ``cache``.
        type: ``str``, ``bool``, ``int``, ``float``, ``pathlib.Path`` (made absolute, ``~`` expanded), ``list`` (a tuple
            of texts, or of *section*) or ``dict`` (texts by name).
        default: its value when it is not set; None means off or unknown.
        help: one sentence for the documentation.
        unit: ``seconds``, ``bytes`` …, for numbers. Seconds may be written as ``30s``, ``10m``, ``24h`` or ``7d``, and
            bytes as ``64KiB``, ``64MiB``, ``50GiB`` or ``1TiB``.
        secret: whether ``docker-registry config`` and every log must mask it.
        choices: the allowed values, case-insensitive; empty allows any value.
        minimum: the smallest allowed number.
        maximum: the largest allowed number; a duration is :data:`MAX_SECONDS` at most.
        section: the dataclass of each item of a list of sections.
        form: what a text must be: a key of :data:`_FORMS`, ``file`` for what may name a file, or empty if unknown.
    """

    name: str
    type: type = str
    default: Any = None
    help: str = ""
    unit: str = ""
    secret: bool = False
    choices: tuple[str, ...] = field(default=())
    minimum: int | None = None
    section: Section | None = None
    maximum: int | None = None
    form: str = ""

    def __post_init__(self) -> None:
        if self.type not in TYPES:
            raise TypeError(f"setting {self.name}: {self.type!r} is not a type of settings")

    @property
    def keyword(self) -> str:
        """The keyword argument of a driver's constructor for this setting: its name, with ``_`` for each dot."""
        return self.name.replace(".", "_")

    def convert(self, raw: object) -> Any:
        """
        Convert text from the configuration file or the environment to the declared type.

        Args:
            raw: text; a list or a section where the type is a list or a map.

        Raises:
            ValueError: *raw* does not have this type. The message continues a sentence that begins with the setting's
                name. It never contains the value, which may be a misplaced secret.
        """
        if self.section is not None:
            return self._convert_sections(raw, self.section)
        if self.type is list:
            return self._convert_list(raw)
        if self.type is dict:
            return self._convert_map(raw)
        if not isinstance(raw, str):
            raise ValueError(f"must be {self._wanted()}, not a {_shape(raw)}")
        if self.type is Path:
            return _absolute(raw)
        if self.type is str:
            return self._choose(raw) if self.choices else _check_text(raw, self.form)
        return self._convert_scalar(raw.strip())

    def _convert_scalar(self, text: str) -> bool | int | float:
        if self.type is bool and text.lower() in BOOLEANS:
            return BOOLEANS[text.lower()]
        number: int | float = math.nan
        if self.type is int and _INTEGER.fullmatch(text):
            number = int(text)
        elif quantity := self._quantity(text):
            number = quantity
        elif self.type is float and _FLOAT.fullmatch(text):
            number = float(text)
        if not math.isfinite(number) or (self.minimum is not None and number < self.minimum):
            raise ValueError(f"must be {self._wanted()}")
        if self.maximum is not None and number > self.maximum:
            raise ValueError(f"must be at most {self.maximum}")
        return min(number, MAX_SECONDS) if self.unit == "seconds" else number

    def _quantity(self, text: str) -> int | None:
        """Return a duration or size that has a suffix; None for anything else."""
        found = _QUANTITY.fullmatch(text)
        factor = _SUFFIXES.get(self.unit, {}).get(found[2]) if found else None
        return int(found[1]) * factor if found and factor else None

    def _convert_sections(self, raw: object, section: Section) -> tuple[Any, ...]:
        if not isinstance(raw, list) or not all(isinstance(item, dict) for item in raw):
            raise ValueError("must be a list of sections")
        return tuple(self._convert_section(item, section, f"item {number}") for number, item in enumerate(raw, 1))

    def _convert_section(self, raw: Mapping[str, Any], section: Section, label: str) -> Any:
        declared = {setting.name: setting for setting in settings_of(section)}
        values = {}
        for name, given in flatten(raw, declared):
            if name not in declared:
                raise ValueError(f"has no setting {without_value(name)} (in {label})")
            if given is None:
                continue
            try:
                values[name] = declared[name].convert(given)
            except ValueError as error:
                raise ValueError(f"is wrong in {label}: {name} {error}") from None
        missing = [name for name, setting in declared.items() if setting.default is MISSING and name not in values]
        if missing:
            raise ValueError(f"lacks {', '.join(missing)} (in {label})")
        return fill(section, values)

    def _convert_map(self, raw: object) -> dict[str, str]:
        if not isinstance(raw, dict) or not all(isinstance(value, str) for value in raw.values()):
            raise ValueError("must be a map of texts")
        return {_check_text(str(key)): _check_text(value) for key, value in raw.items()}

    def _convert_list(self, raw: object) -> tuple[str, ...]:
        if isinstance(raw, str):
            raw = _flow_list(raw) if raw.lstrip().startswith("[") else [item.strip() for item in raw.split(",")]
        if not isinstance(raw, list) or not all(isinstance(item, str) for item in raw):
            raise ValueError("must be a list of texts")
        return tuple(self._choose(item) if self.choices else _check_text(item, self.form) for item in raw)

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
        if self.unit in _EXAMPLES:
            wanted += f", such as {_EXAMPLES[self.unit]}"
        return wanted if self.minimum is None else f"{wanted}, at least {self.minimum}"


def setting(
    default: Any,
    help: str,  # noqa: A002 - the name of the attribute of Setting
    *,
    unit: str = "",
    secret: bool = False,
    choices: tuple[str, ...] = (),
    minimum: int | None = None,
    maximum: int | None = None,
    form: str = "",
) -> Any:
    """
    Declare a dataclass field as a setting; name and type are those of the field.

    Args:
        default: ``dataclasses.MISSING`` where each item of a list of sections must set it.
    """
    limits = {"minimum": minimum, "maximum": maximum, "choices": choices, "form": form}
    return field(default=default, metadata={"help": help, "unit": unit, "secret": secret, **limits})


def settings_of(declaration: type, prefix: str = "") -> Iterator[Setting]:
    """Yield every setting that a dataclass and its sections (nested dataclasses) declare with :func:`setting`."""
    types = get_type_hints(declaration)
    for entry in fields(declaration):
        annotation = types[entry.name]
        if is_dataclass(annotation):
            yield from settings_of(annotation, f"{prefix}{entry.name}.")  # type: ignore[arg-type] # a class, not an instance
        elif entry.metadata:
            kind, section = _plain_type(annotation), _item_section(annotation)
            yield Setting(prefix + _name(entry), kind, entry.default, section=section, **entry.metadata)


def fill(declaration: type[Declaration], values: Mapping[str, Any], prefix: str = "", **others: Any) -> Declaration:
    """
    Create a dataclass and its sections from values by dotted name; other fields keep their defaults.

    Args:
        others: fields that are not settings.
    """
    types = get_type_hints(declaration)
    for entry in fields(declaration):  # type: ignore[arg-type] # only dataclasses are declarations
        name = prefix + _name(entry)
        if is_dataclass(types[entry.name]):
            others[entry.name] = fill(types[entry.name], values, f"{name}.")
        elif name in values:
            others[entry.name] = values[name]
    return declaration(**others)


def value_of(section: object, name: str) -> Any:
    """
    Return the value of a setting.

    Args:
        section: an instance of the dataclass that declares it, directly or in a section.
        name: its dotted name.
    """
    for part in name.split("."):
        section = getattr(section, f"{part}_" if keyword.iskeyword(part) else part)
    return section


def _name(entry: Field[Any]) -> str:
    """Return the name of a setting; a field that would be a keyword of Python has an underscore at its end."""
    return entry.name.removesuffix("_")


def flatten(tree: Mapping[str, Any], known: Iterable[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """
    Yield the dotted names and values of a section and of its nested sections.

    Args:
        known: names of settings; a mapping that contains none of them is a value.
    """
    known = tuple(known)
    for key, value in tree.items():
        name = f"{prefix}{key}"
        is_section = any(known_name.startswith(f"{name}.") for known_name in known)
        if not is_section:
            yield name, value
        elif isinstance(value, dict):
            yield from flatten(value, known, f"{name}.")
        elif value is not None:  # an empty section sets nothing
            yield name, value


def _plain_type(annotation: Any) -> type:
    """Return the type of a setting: ``str | None`` is text, ``tuple[…, …]`` a list, ``Mapping[…]`` a map."""
    given = [option for option in get_args(annotation) if option is not type(None)]
    if get_origin(annotation) is tuple:
        return list
    if get_origin(annotation) in (dict, Mapping):
        return dict
    if given and get_origin(given[0]) is not None:  # such as a map that may be None
        return _plain_type(given[0])
    plain: type = given[0] if given else annotation
    return plain


def _item_section(annotation: Any) -> Section | None:
    """Return the dataclass of the items if an annotation is a tuple of sections."""
    item = get_args(annotation)[0] if get_origin(annotation) is tuple else None
    return item if isinstance(item, type) and is_dataclass(item) else None


def without_value(name: str) -> str:
    """Return the part of an unknown name that cannot be a secret: all of ``password:s3cret`` would show one."""
    return re.split(r"[^\w.-]", name, maxsplit=1)[0]


def sent(settings: Iterable[Setting]) -> tuple[Setting, ...]:
    """Return settings whose texts are sent to a server, so that they must be UTF-8 unless they may name files."""
    return tuple(each if each.form else replace(each, form="sent") for each in settings)


def check_header(text: str) -> str:
    """
    Return *text* if the value of an HTTP header may contain it.

    Raises:
        ValueError: it contains a line break, another control character, or one that is not in Latin-1.
    """
    return _check_text(text, "header")


def _check_text(text: str, form: str = "") -> str:
    """
    Return *text* if files, sockets and databases can take it, and it has the form of its setting.

    Bytes of a variable that are no UTF-8 are accepted where no form forbids them: names of files may contain them.
    """
    if "\0" in text:
        raise ValueError("contains a NUL character")
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError("contains half of a surrogate pair, which is no character") from None
    for wrong, message in _FORMS.get(form, ()):
        if wrong.search(text):
            raise ValueError(message)
    return text


def _absolute(text: str) -> Path:
    try:
        return Path(_check_text(text)).expanduser().absolute()
    except RuntimeError:
        raise ValueError("begins with ~, but that user has no home folder") from None


def _flow_list(text: str) -> object:
    """Parse a list in YAML's flow style, which version 0.9 accepted in environment variables."""
    try:
        return yaml.BaseLoader(text).get_single_data()
    except (yaml.YAMLError, RecursionError):
        return None


def _shape(raw: object) -> str:
    return "list" if isinstance(raw, list) else "section" if isinstance(raw, dict) else "tagged value"
