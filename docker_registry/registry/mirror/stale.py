"""Warnings about content that is served although its upstream could not confirm it."""

from __future__ import annotations

from typing import Final

from docker_registry.errors import UpstreamError, UpstreamLimited, UpstreamTimeout, UpstreamUnavailable

#: How long something is served with a warning before the upstream is tried again, in each worker.
STALE_SECONDS: Final = 10

#: Why an upstream was not asked, as warnings say it.
_REASONS: Final[dict[type[UpstreamError], str]] = {
    UpstreamLimited: "allows few or no more pulls for now",
    UpstreamTimeout: "does not answer in time",
    UpstreamUnavailable: "is not reachable",
    UpstreamError: "does not answer correctly",
}


def reason_of(error: UpstreamError) -> str:
    """
    Return why an upstream could not be asked, for :func:`warning`.

    To be kept instead of the error, whose traceback refers to everything that the failed request has in memory.
    """
    return next(text for kind, text in _REASONS.items() if isinstance(error, kind))


def warning(upstream: str, reason: str, what: str, age_seconds: float) -> str:
    """
    Return the text of a ``Warning`` header.

    Args:
        upstream: its name.
        reason: why it was not asked, from :func:`reason_of`.
        what: what is served, such as ``this tag was``.
        age_seconds: time since the upstream last confirmed it.
    """
    return f"{upstream} {reason}; {what} checked {_age(max(age_seconds, 0))} ago"


def _age(seconds: float) -> str:
    """Return a duration in words, in its largest unit."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        if seconds >= 2 * length or unit == "second":
            number = int(seconds // length)
            return f"{number} {unit}{'' if number == 1 else 's'}"
    raise AssertionError
