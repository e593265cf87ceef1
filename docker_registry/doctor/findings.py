"""What an examination finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """
    A fault, or something to know.

    Attributes:
        probe: its name.
        message: what is wrong, and what to change.
        is_fault: whether something must be changed.
    """

    probe: str
    message: str
    is_fault: bool = True


class CannotExamine(Exception):
    """The registry cannot be reached, or does not accept the probe's push."""


class Findings(list[Finding]):
    """The findings of one examination, in the order of its probes."""

    def fault(self, probe: str, message: str) -> None:
        """Record a fault; only the first of each probe."""
        if not self.has(probe):
            self.append(Finding(probe, message))

    def note(self, probe: str, message: str) -> None:
        """Record something to know."""
        self.append(Finding(probe, message, is_fault=False))

    def has(self, *probes: str) -> bool:
        """Return whether one of these probes has found a fault; without arguments, whether any has."""
        return any(finding.is_fault and (not probes or finding.probe in probes) for finding in self)
