"""Reports errors to Sentry by its library."""

from __future__ import annotations

import socket
from datetime import datetime, timezone
from typing import Final

from docker_registry.error_reports.limiter import KindLimiter
from docker_registry.error_reports.report import ErrorReport
from docker_registry.errors import ConfigError

#: One report for each kind of error, worker and minute; Sentry itself groups them.
PERIOD_SECONDS: Final = 60


class SentryReporter:
    """Sends errors with flavor (as the environment), release and host; no request data and no local variables."""

    name = "sentry"

    def __init__(self, dsn: str, *, flavor: str, release: str) -> None:
        """
        Args:
            dsn: address and key of a project in Sentry.

        Raises:
            ConfigError: the library is not installed, or the DSN is invalid.
        """
        try:
            from sentry_sdk import Client
        except ImportError:
            raise ConfigError("sentry_dsn needs a library: pip install 'docker-registry[sentry]'.") from None
        try:
            self._client = Client(
                dsn=dsn,
                release=f"docker-registry@{release}",
                environment=flavor,
                server_name=socket.gethostname(),
                default_integrations=False,
                auto_enabling_integrations=False,
                include_local_variables=False,
            )
        except ValueError:  # BadDsn, or an address with an invalid host or port
            raise ConfigError("sentry_dsn must be the DSN of a project in Sentry.") from None
        self._limiter = KindLimiter(PERIOD_SECONDS)

    def send(self, report: ErrorReport) -> None:
        """Send a report unless one of this kind was sent within the minute."""
        if self._limiter.allow(report.kind) is None:
            return
        frames = [
            {"filename": frame.file, "lineno": frame.line, "function": frame.function, "in_app": frame.is_ours}
            for frame in report.frames
        ]
        exception = {"type": report.error_class, "value": report.message, "stacktrace": {"frames": frames}}
        self._client.capture_event(
            {
                "level": "error",
                "logger": report.logger,
                "timestamp": datetime.fromtimestamp(report.time, timezone.utc),
                "transaction": report.logged,
                "fingerprint": [report.kind],
                "exception": {"values": [exception]},
            }
        )
