"""Rendering of settings: the effective ones for the operator, all of them for the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from docker_registry.config import legacy
from docker_registry.config.flavors import merge, variable
from docker_registry.config.schema import Config
from docker_registry.settings import TYPES, Section, Setting, flatten, settings_of, value_of

MASK: Final = "********"

#: The text before the password in ``scheme://user:password@host``, and before the value in ``…password=…``. A user name
#: may contain an ``@``, as those of Azure's databases do.
_PASSWORDS = re.compile(
    r"(://[^:/]*:).*(?=@)|(\b\w*(?:password|passwd|pwd|secret|token)=)[^&;]*", re.IGNORECASE | re.DOTALL
)


def render(config: Config) -> str:
    """
    Render the effective configuration as a file with only this flavor.

    Secrets and passwords in URLs are masked.
    """
    tree = _tree(Config, config)
    for setting in config.driver_settings:
        tree = merge(tree, _nested(setting, config.driver_options[setting.keyword]))
    content = yaml.safe_dump({config.flavor: tree}, sort_keys=False, allow_unicode=True, width=1000)
    return f"# {config.path}, flavor {config.flavor}\n{content}"


def reference(driver_settings: Mapping[str, Iterable[Setting]], sample: Mapping[str, Mapping[str, Any]]) -> str:
    """
    Render the tables of all settings in Markdown.

    Args:
        driver_settings: settings by name of the driver that declares them.
        sample: the flavors of the sample configuration, from which the environment variable of each setting is taken.
    """
    general = tuple(settings_of(Config))
    variables = _variables(sample, [setting.name for setting in general])
    parts = [f"### General\n\n{_table(general, variables)}"]
    for driver, declared in driver_settings.items():
        table = _table(declared, variables) if declared else "No further settings.\n"
        parts.append(f"### With `storage: {driver}`\n\n{table}")
    return "\n".join(parts)


def reference_of_0_7_1(
    driver_settings: Mapping[str, Iterable[Setting]], sample: Mapping[str, Mapping[str, Any]]
) -> str:
    """
    Render the table of the settings of docker-registry 0.7.1 in Markdown: which part serves each, or why none does.

    Args:
        driver_settings: settings by name of the driver that declares them.
        sample: as for :func:`reference`.
    """
    variables = {"storage": "SETTINGS_FLAVOR", **_variables(sample, legacy.SETTINGS_OF_0_7_1)}
    variables.update({name: theirs for name, theirs in legacy.SETTINGS_OF_0_7_1.items() if theirs})
    general = {setting.name for setting in settings_of(Config)}
    drivers = {driver: {setting.name for setting in declared} for driver, declared in driver_settings.items()}
    lines = ["| Setting | Variable | In this version |", "| --- | --- | --- |"]
    for name in legacy.SETTINGS_OF_0_7_1:
        environment = variables.get(name)
        served_by = [f"`{driver}`" for driver, names in drivers.items() if name in names]
        if name in general:
            status = "served"
        elif served_by:
            status = f"served with the driver {', '.join(served_by)}"
        else:
            status = f"ignored: {_why_ignored(name)}"
        lines.append(f"| `{name}` | {f'`{environment}`' if environment else ''} | {status} |")
    return "\n".join(lines) + "\n"


def _variables(sample: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> dict[str, str]:
    """Return the environment variables of settings in the sample."""
    return {
        name: name_in_sample
        for tree in sample.values()
        for name, raw in flatten(tree, [*names])
        if (name_in_sample := variable(raw))
    }


def _why_ignored(name: str) -> str:
    """Return why no part serves a setting of 0.7.1."""
    replaced = [reasons[name] for reasons in legacy.REPLACED.values() if name in reasons]
    abandoned = [reason for prefix, reason in legacy.ABANDONED.items() if name.startswith(prefix)]
    return next(iter([*replaced, *abandoned]), "") or legacy.RETIRED[name]


def _table(declared: Iterable[Setting], variables: Mapping[str, str]) -> str:
    lines = ["| Setting | Type | Default | Variable in the sample | Meaning |", "| --- | --- | --- | --- | --- |"]
    for setting in declared:
        name = f"`{variables[setting.name]}`" if setting.name in variables else ""
        kind = " ".join(f"`{choice}`" for choice in setting.choices) or setting.unit or TYPES[setting.type]
        meaning = f"{setting.help} Secret." if setting.secret else setting.help
        lines.append(f"| `{setting.name}` | {kind} | {_default(setting.default)} | {name} | {meaning} |")
    return "\n".join(lines) + "\n"


def _default(value: Any) -> str:
    if value is None or value == ():
        return ""
    if isinstance(value, tuple):
        return f"`[{', '.join(value)}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _nested(setting: Setting, value: Any) -> dict[str, Any]:
    """Nest one value in its sections, with secrets masked."""
    value = _plain(setting, value)
    for name in reversed(setting.name.split(".")):
        value = {name: value}
    return dict(value)


def _plain(setting: Setting, value: Any) -> Any:
    if setting.section is not None:
        return [_tree(setting.section, item) for item in value or ()]
    if setting.secret and value:
        return MASK
    if isinstance(value, tuple):
        return [_masked(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _masked(text) for name, text in value.items()}
    return _masked(str(value)) if isinstance(value, str | Path) else value


def _tree(section: Section, values: object) -> dict[str, Any]:
    """Return the settings of a section and of its nested sections, with secrets masked."""
    tree: dict[str, Any] = {}
    for setting in settings_of(section):
        tree = merge(tree, _nested(setting, value_of(values, setting.name)))
    return tree


def _masked(text: str) -> str:
    return _PASSWORDS.sub(lambda match: f"{match[1] or match[2]}{MASK}", text)
