"""Logging setup: the registry logs to the log of its server, from the configured level."""

from __future__ import annotations

import logging

#: The root of all loggers of the registry.
PACKAGE = "docker_registry"


def start_logging(level: str) -> None:
    """
    Log messages of at least this level to gunicorn's error log, or to standard error without gunicorn.

    Args:
        level: ``debug``, ``info``, ``warn``, ``warning``, ``error`` or ``critical``.
    """
    logger = logging.getLogger(PACKAGE)
    logger.setLevel(level.upper())
    logger.handlers = logging.getLogger("gunicorn.error").handlers or [logging.StreamHandler()]
    logger.propagate = False
    for handler in logger.handlers:
        if not any(isinstance(each, OneLine) for each in handler.filters):
            handler.addFilter(OneLine())


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
