"""What all tests share."""

from __future__ import annotations


def pytest_configure(config):
    """Leave out what takes minutes, unless the command line chooses by markers itself."""
    if not config.option.markexpr:
        config.option.markexpr = "not slow"
