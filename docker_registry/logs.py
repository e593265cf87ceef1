"""Where the registry's own words go: to the log of the server that runs it, from the level that is set."""

from __future__ import annotations

import logging

#: The root of all our loggers.
PACKAGE = "docker_registry"


def start_logging(level: str) -> None:
    """
    Let everything of at least this level be logged, where gunicorn logs, or to standard error without it.

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
    """Escapes control characters in messages: paths and names of clients could forge lines of the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Escape them; the traceback of an exception keeps its lines."""
        if record.name.partition(".")[0] == PACKAGE:
            message = record.getMessage()
            if not message.isprintable():
                escaped = (char if char.isprintable() else repr(char)[1:-1] for char in message)
                record.msg, record.args = "".join(escaped), ()
        return True
