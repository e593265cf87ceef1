"""
The Go struct through which Docker decoded and encoded the JSON of a V1 image.

Docker 1.10 to 17.05 decoded every V1 image into this struct when converting it to V2, and the resulting ids are digests
of its output. So this module follows Go's rules: unknown members are dropped, keys match case-insensitively, null
leaves a field unset, and a value of the wrong type is an error (moby, ``image/v1/imagev1.go`` and ``image.V1Image``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from docker_registry.registry.bridge import go_json
from docker_registry.registry.bridge.go_json import Number, Raw

#: The creation time of an image without one: Go's zero time.
_ZERO_TIME: Final = "0001-01-01T00:00:00Z"

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|([+-](?:[01]\d|2[0-3]):[0-5]\d))", re.ASCII)

#: Images of Docker versions below this one are encoded through the struct again before they are converted.
_FIRST_UNCHANGED: Final = (1, 8, 3)


class ImageStructure:
    """The struct with the fields of one image."""

    def __init__(self, payload: bytes) -> None:
        """
        Args:
            payload: the image's JSON.

        Raises:
            ValueError: the JSON does not fit into the struct.
        """
        self._fields = _fill(_IMAGE, {key: go_json.read(raw) for key, raw in go_json.read_map(payload).items()})

    @property
    def is_from_old_docker(self) -> bool:
        """
        Whether the image was built by a Docker before 1.8.3, or states no version.

        Docker 1.10 to 17.05 encoded the struct of such an image again, and passed the JSON of all others through.
        """
        return _version(self._fields.get("docker_version", "")) < _FIRST_UNCHANGED

    def to_json(self) -> bytes:
        """Encode the struct."""
        return _write(_IMAGE, self._fields).encode()

    def history(self) -> Raw:
        """Encode the image's entry in the ``history`` of a configuration."""
        command = (self._fields.get("container_config") or {}).get("Cmd") or ()
        members = {
            "author": self._fields.get("author", ""),
            "created_by": " ".join(command),
            "comment": self._fields.get("comment", ""),
        }
        written = [f'"created":{_write_time(self._created)}']
        written += [f'"{key}":{go_json.string(text)}' for key, text in members.items() if text]
        return f"{{{','.join(written)}}}"

    @property
    def _created(self) -> str:
        return str(self._fields.get("created", _ZERO_TIME))


# ---------------------------------------------------------------------------------------------------- the fields

#: Decoder (raises ValueError) and encoder of a field, and whether it is omitted when empty (``omitempty``).
_Field = tuple[Callable[[Any], Any], Callable[[Any], Raw], bool]


def _read_text(value: Any) -> str:
    if not isinstance(value, str) or isinstance(value, Number):
        raise ValueError("not a string")
    return value


def _write_text(value: str | None) -> Raw:
    return go_json.string(value or "")


def _read_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("not true or false")
    return value


def _write_flag(value: bool | None) -> Raw:
    return "true" if value else "false"


def _read_size(value: Any) -> int:
    if not isinstance(value, Number) or not re.fullmatch(r"-?\d{1,18}", value):
        raise ValueError("not a whole number")
    return int(value)


def _read_time(value: Any) -> str:
    """Normalize a time as Go writes it: RFC 3339, the fraction without trailing zeros."""
    match = _TIME.fullmatch(_read_text(value))
    if match is None:
        raise ValueError("not a time")
    datetime.fromisoformat(match[1])  # rejects dates such as February 30
    fraction = (match[2] or "").rstrip("0")
    offset = match[3] if match[3] and match[3][1:] != "00:00" else "Z"
    return match[1] + (f".{fraction}" if fraction else "") + offset


def _write_time(value: str | None) -> Raw:
    return f'"{value or _ZERO_TIME}"'


def _read_texts(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise ValueError("not a list")
    return ["" if item is None else _read_text(item) for item in value]


def _read_command(value: Any) -> list[str]:
    """Decode a list of strings, or a single string."""
    return _read_texts(value) if isinstance(value, list) else [_read_text(value)]


def _write_texts(value: Sequence[str] | None) -> Raw:
    return "null" if value is None else f"[{','.join(map(go_json.string, value))}]"


def _read_set(value: Any) -> dict[str, Raw]:
    if not isinstance(value, dict) or not all(item is None or isinstance(item, dict) for item in value.values()):
        raise ValueError("not an object of objects")
    return dict.fromkeys(value, "{}")


def _read_labels(value: Any) -> dict[str, Raw]:
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return {key: go_json.string("" if item is None else _read_text(item)) for key, item in value.items()}


def _write_members(value: Mapping[str, Raw] | None) -> Raw:
    return "null" if value is None else go_json.write_map(value).decode()


def _read_config(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return _fill(_CONFIG, value)


def _write_config(value: Mapping[str, Any] | None) -> Raw:
    return _write(_CONFIG, value or {})


_TEXT: Final[_Field] = (_read_text, _write_text, False)
_OPTIONAL_TEXT: Final[_Field] = (_read_text, _write_text, True)
_FLAG: Final[_Field] = (_read_flag, _write_flag, False)
_OPTIONAL_FLAG: Final[_Field] = (_read_flag, _write_flag, True)
_TEXTS: Final[_Field] = (_read_texts, _write_texts, False)
_COMMAND: Final[_Field] = (_read_command, _write_texts, False)

_CONFIG: Final[Mapping[str, _Field]] = {
    "Hostname": _TEXT,
    "Domainname": _TEXT,
    "User": _TEXT,
    "AttachStdin": _FLAG,
    "AttachStdout": _FLAG,
    "AttachStderr": _FLAG,
    "ExposedPorts": (_read_set, _write_members, True),
    "Tty": _FLAG,
    "OpenStdin": _FLAG,
    "StdinOnce": _FLAG,
    "Env": _TEXTS,
    "Cmd": _COMMAND,
    "ArgsEscaped": _OPTIONAL_FLAG,
    "Image": _TEXT,
    "Volumes": (_read_set, _write_members, False),
    "WorkingDir": _TEXT,
    "Entrypoint": _COMMAND,
    "NetworkDisabled": _OPTIONAL_FLAG,
    "MacAddress": _OPTIONAL_TEXT,
    "OnBuild": _TEXTS,
    "Labels": (_read_labels, _write_members, False),
    "StopSignal": _OPTIONAL_TEXT,
}

_IMAGE: Final[Mapping[str, _Field]] = {
    "id": _OPTIONAL_TEXT,
    "parent": _OPTIONAL_TEXT,
    "comment": _OPTIONAL_TEXT,
    "created": (_read_time, _write_time, False),
    "container": _OPTIONAL_TEXT,
    "container_config": (_read_config, _write_config, False),
    "docker_version": _OPTIONAL_TEXT,
    "author": _OPTIONAL_TEXT,
    "config": (_read_config, _write_config, True),
    "architecture": _OPTIONAL_TEXT,
    "os": _OPTIONAL_TEXT,
    "Size": (_read_size, str, True),
}


def _fill(declared: Mapping[str, _Field], document: Mapping[str, Any]) -> dict[str, Any]:
    """Decode the members of a document that the struct declares."""
    by_lower_case = {name.lower(): name for name in declared}
    fields = {}
    for key, value in document.items():
        name = key if key in declared else by_lower_case.get(key.lower())
        if name is not None and value is not None:
            fields[name] = declared[name][0](value)
    return fields


def _write(declared: Mapping[str, _Field], fields: Mapping[str, Any]) -> Raw:
    members = []
    for name, (_, write, is_optional) in declared.items():
        value = fields.get(name)
        if not is_optional or (value or (name == "config" and value is not None)):
            members.append(f'"{name}":{write(value)}')
    return f"{{{','.join(members)}}}"


def _version(text: str) -> tuple[int, ...]:
    """Parse a version as Docker compares them: number by number; parts that are not numbers count as 0."""
    parts = tuple(int(part) if re.fullmatch(r"[+-]?\d{1,9}", part, re.ASCII) else 0 for part in text.split("."))
    while parts and parts[-1] == 0:  # 1.8.0 is 1.8
        parts = parts[:-1]
    return parts
