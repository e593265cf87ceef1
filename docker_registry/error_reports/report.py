"""What a report of an error contains, and how it is made from a log record."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol

from docker_registry.error_reports.redaction import Redactor

#: Longer texts are cut, also in a traceback: the message of an exception may contain a whole manifest.
MAX_MESSAGE_CHARACTERS: Final = 4096

_PACKAGE: Final = Path(__file__).parent.parent

#: Attributes of a log record, given by ``extra=``: an error that is logged without its traceback, and secrets of the
#: request that may appear in it.
ERROR_ATTRIBUTE: Final = "error"
SECRETS_ATTRIBUTE: Final = "secrets"


@dataclass(frozen=True, slots=True)
class Frame:
    """
    One call of a traceback.

    Attributes:
        file: path of the source file; relative to the package where it belongs to the registry.
        is_ours: whether it belongs to the registry.
    """

    file: str
    line: int
    function: str
    is_ours: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorReport:
    """
    One logged error, without secrets.

    Attributes:
        kind: class and position, by which errors are grouped: ``KeyError at registry/tags.py:120``.
        error_class: name of the exception's class; the logger's name for a message without exception.
        message: text of the exception.
        logged: the logged message; for a request, its method and path.
        frames: calls, the outermost first; empty without a traceback.
        traceback: the calls and the exception as text, with the exceptions that caused it; each message is cut.
        time: seconds since the Unix epoch.
        logger: name of the logger.
    """

    kind: str
    error_class: str
    message: str
    logged: str
    frames: tuple[Frame, ...]
    traceback: str
    time: float
    logger: str


class ErrorReporter(Protocol):
    """Sends reports somewhere; each reporter has a thread of its own, so sending may block."""

    @property
    def name(self) -> str:
        """Name for log messages."""

    def send(self, report: ErrorReport) -> None:
        """
        Send one report.

        Raises:
            Exception: anything; the report is lost, and a warning is logged.
        """


def report_of(record: logging.LogRecord, redactor: Redactor) -> ErrorReport:
    """Return the report of a log record."""
    error = record.exc_info[1] if record.exc_info else getattr(record, ERROR_ATTRIBUTE, None)
    secrets: Iterable[str] = getattr(record, SECRETS_ATTRIBUTE, ())

    def redacted(text: str) -> str:
        shown = redactor.redact(text, secrets)[:MAX_MESSAGE_CHARACTERS]
        return shown.encode("utf-8", "backslashreplace").decode()  # names of files need not be UTF-8

    parts = [] if error is None else traceback.format_exception(error)  # one for each call, and one for each message
    frames = _frames(None if error is None else error.__traceback__)
    origin = next((frame for frame in reversed(frames) if frame.is_ours), None) or Frame(
        _relative(record.pathname), record.lineno, record.funcName or "", is_ours=True
    )
    error_class = record.name if error is None else type(error).__qualname__
    return ErrorReport(
        kind=f"{error_class} at {origin.file}:{origin.line}",
        error_class=error_class,
        message=redacted("" if error is None else str(error)),
        logged=redacted(record.getMessage()),
        frames=frames,
        # Once more as a whole: each line of a note is a part of its own, and a secret may begin on the next one.
        traceback=redactor.redact(
            "".join(part if part.endswith("\n") else f"{part}\n" for part in map(redacted, parts)), secrets
        ),
        time=record.created,
        logger=record.name,
    )


def _frames(found: TracebackType | None) -> tuple[Frame, ...]:
    return tuple(
        Frame(_relative(call.filename), call.lineno or 0, call.name, _is_ours(call.filename))
        for call in traceback.extract_tb(found)
    )


def _is_ours(file: str) -> bool:
    return Path(file).is_relative_to(_PACKAGE)


def _relative(file: str) -> str:
    return str(Path(file).relative_to(_PACKAGE)) if _is_ours(file) else file
