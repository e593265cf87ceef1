"""Logging setup: the registry logs to the log of its server, from the configured level, as text or as JSON."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timezone

#: The root of all loggers of the registry.
PACKAGE = "docker_registry"

JSON = "json"


def start_logging(level: str, log_format: str = "text") -> None:
    """
    Log messages of at least this level to gunicorn's error log, or to standard error without gunicorn.

    Args:
        level: ``debug``, ``info``, ``warn``, ``warning``, ``error`` or ``critical``.
        log_format: ``text`` or ``json``; also of gunicorn's own messages.
    """
    logger = logging.getLogger(PACKAGE)
    logger.setLevel(level.upper())
    logger.handlers = logging.getLogger("gunicorn.error").handlers or [logging.StreamHandler()]
    logger.propagate = False
    for handler in logger.handlers:
        if not any(isinstance(each, OneLine) for each in handler.filters):
            handler.addFilter(OneLine())
        if log_format == JSON:
            handler.setFormatter(JsonFormatter())


def log_line(message: str, log_format: str, level: int = logging.INFO) -> str:
    """Return a message in a log format; for what is printed before the log is open."""
    if log_format != JSON:
        return message
    return JsonFormatter().format(logging.LogRecord(PACKAGE, level, "", 0, message, (), None))


class OneLine(logging.Filter):
    """Escapes control characters in messages, so that paths and names from clients cannot forge log lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Escape the message; tracebacks keep their lines."""
        if record.name.partition(".")[0] == PACKAGE:
            message = record.getMessage()
            if not message.isprintable():
                escaped = (char if char.isprintable() else repr(char)[1:-1] for char in message)
                record.msg, record.args = "".join(escaped), ()
        return True


class JsonFormatter(logging.Formatter):
    """
    Formats a message as one line of JSON.

    ::

        {"time": "2026-01-01T00:00:00.000Z", "level": "error", "message": "…", "logger": "…", "traceback": "…"}
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a newline."""
        when = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        document = {
            "time": when.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "logger": record.name,
        }
        if record.exc_info:
            document["traceback"] = self.formatException(record.exc_info)
        return json.dumps(document)
