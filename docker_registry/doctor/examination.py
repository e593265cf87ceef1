"""One examination of a registry: what is examined, what the probes push, and what they find."""

from __future__ import annotations

from dataclasses import dataclass, field

from docker_registry.doctor.connection import Target
from docker_registry.doctor.probe_image import ProbeImage


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


@dataclass(slots=True)
class Examination:
    """
    One examination of a registry.

    Attributes:
        repository: where the probe is pushed.
        silence_seconds: pause in an upload; 0 to leave this probe out.
        early_seconds: how long to wait for a response that some proxies send before the body is complete.
        patience_seconds: how long the registry may take to store what a proxy has forwarded.
    """

    target: Target
    repository: str
    silence_seconds: float = 0
    early_seconds: float = 3.0
    patience_seconds: float = 10.0
    findings: Findings = field(default_factory=Findings)
    image: ProbeImage = field(default_factory=ProbeImage)

    @property
    def root(self) -> str:
        """Path of the probe's repository."""
        return f"{self.target.path}/v2/{self.repository}"

    def clean_up(self) -> None:
        """Remove what the probes pushed."""
        for path in (*(f"manifests/{digest}" for digest in self.image.manifests), f"blobs/{self.image.digest}"):
            self.target.ask("DELETE", f"{self.root}/{path}")
