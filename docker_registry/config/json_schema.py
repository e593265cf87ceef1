"""The JSON Schema of the configuration file, from the declarations of all settings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Final

import yaml

from docker_registry import drivers
from docker_registry.config import legacy
from docker_registry.config.schema import Config
from docker_registry.errors import ConfigError
from docker_registry.settings import Section, Setting, settings_of

Schema = dict[str, Any]

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

#: A value that is read from an environment variable, or not set at all.
_VARIABLE: Final[Schema] = {"type": "string", "pattern": "^_env:"}
_UNSET: Final[Schema] = {"type": "null"}

#: YAML parsers read some texts as numbers, booleans or dates; the registry reads them as they are written.
_TEXT: Final[Schema] = {"type": ["string", "number", "boolean"]}

_BOOLEAN: Final = "^([Tt]rue|[Ff]alse|[Yy]es|[Nn]o|[Oo]n|[Oo]ff|TRUE|FALSE|YES|NO|ON|OFF|[01])$"
_INTEGER: Final = r"^[+-]?[0-9]{1,18}$"
_FLOAT: Final = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
_SUFFIXES: Final = {"seconds": "[smhd]", "bytes": "([KMGT]i)?B"}


def configuration_schema() -> Schema:
    """Return the JSON Schema of a configuration file, with the settings of all installed drivers."""
    settings: list[Setting] = []
    is_complete = True
    for name in drivers.installed():
        try:
            settings += drivers.load(name).settings
        except ConfigError:  # it lacks a library
            is_complete = False
    return json_schema(settings, is_complete=is_complete)


def json_schema(driver_settings: Iterable[Setting], *, is_complete: bool) -> Schema:
    """
    Return the JSON Schema of a configuration file.

    Args:
        driver_settings: those of the drivers that can be loaded.
        is_complete: whether all installed drivers can be loaded; the schema then rejects unknown settings.
    """
    flavor: Schema = {"type": ["object", "null"], "properties": {}, "additionalProperties": not is_complete}
    for name in sorted({*legacy.RETIRED, *legacy.DRIVER_SETTINGS}):
        _add(flavor, name, {"description": "Ignored, a setting of earlier versions.", "deprecated": True})
    for setting in (*driver_settings, *settings_of(Config)):
        _add(flavor, setting.name, _value(setting))
    return {
        "$schema": _DIALECT,
        "title": "Configuration of docker-registry",
        "description": "Flavors by name; SETTINGS_FLAVOR chooses one, and `common` is the base of each.",
        "type": "object",
        "additionalProperties": {"anyOf": [{"$ref": "#/$defs/flavor"}, {"not": {"type": "object"}}]},
        "$defs": {"flavor": flavor},
    }


def _add(section: Schema, name: str, schema: Schema) -> None:
    """
    Add the schema of a setting under its dotted name.

    It replaces an earlier schema of the same name, unless that is a section, which accepts more.
    """
    *outer, key = name.split(".")
    for part in outer:
        inner = section["properties"].get(part)
        if inner is None or "properties" not in inner:
            inner = {"type": ["object", "null"], "properties": {}, "additionalProperties": False}
            section["properties"][part] = inner
        section = inner
    if "properties" not in section["properties"].get(key, {}):
        section["properties"][key] = schema


def _value(setting: Setting) -> Schema:
    schema: Schema = {"description": setting.help, "anyOf": [*_forms(setting), _VARIABLE, _UNSET]}
    if setting.default not in (None, MISSING) and not setting.secret:
        default = setting.default
        schema["default"] = str(default) if isinstance(default, Path) else default
    if setting.secret:
        schema["writeOnly"] = True
    return schema


def _forms(setting: Setting) -> list[Schema]:
    """Return the schemas of the ways to write a value."""
    if setting.section is not None:
        return [{"type": "array", "items": _section(setting.section)}]
    if setting.type is dict:
        return [{"type": "object", "additionalProperties": _TEXT}]
    if setting.type is list:
        item = _choices(setting.choices) if setting.choices else [_TEXT]
        return [{"type": "array", "items": {"anyOf": [*item, _VARIABLE, _UNSET]}}, _TEXT]  # items separated by commas
    if setting.type is bool:
        return [{"type": "boolean"}, {"enum": [0, 1]}, {"type": "string", "pattern": _BOOLEAN}]
    if setting.type in (int, float):
        return _numbers(setting)
    return _choices(setting.choices) if setting.choices else [_TEXT]


def _choices(choices: Sequence[str]) -> list[Schema]:
    """Return the schemas of a choice, which is case-insensitive; YAML parsers read one such as 1.2 as a number."""
    numbers = [value for value in map(yaml.safe_load, choices) if not isinstance(value, str)]
    patterns = ("".join(map(_any_case, choice)) for choice in choices)
    return [{"enum": [*choices, *numbers]}, {"type": "string", "pattern": f"^({'|'.join(patterns)})$"}]


def _any_case(character: str) -> str:
    """Return a pattern for a character in upper and lower case; JSON Schema has no flag for it."""
    return f"[{character.upper()}{character.lower()}]" if character.isalpha() else re.escape(character)


def _numbers(setting: Setting) -> list[Schema]:
    number: Schema = {"type": "integer" if setting.type is int else "number"}
    if setting.minimum is not None:
        number["minimum"] = setting.minimum
    if setting.maximum is not None:
        number["maximum"] = setting.maximum
    forms = [number, {"type": "string", "pattern": _INTEGER if setting.type is int else _FLOAT}]
    if setting.unit in _SUFFIXES:
        forms.append({"type": "string", "pattern": f"^[0-9]{{1,15}} ?{_SUFFIXES[setting.unit]}$"})
    return forms


def _section(section: Section) -> Schema:
    schema: Schema = {"type": "object", "properties": {}, "additionalProperties": False}
    required = []
    for setting in settings_of(section):
        _add(schema, setting.name, _value(setting))
        if setting.default is MISSING:
            required.append(setting.name)
    return schema | {"required": required} if required else schema
