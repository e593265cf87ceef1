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
