"""Reports errors to Bugsnag by its notify API, payload version 5 (docs.bugsnag.com/api/error-reporting)."""

from __future__ import annotations

import socket
from datetime import datetime, timezone
from typing import Any, Final
from urllib.parse import urlsplit

from docker_registry.error_reports.limiter import KindLimiter
from docker_registry.error_reports.report import ErrorReport
from docker_registry.errors import ConfigError

#: One report for each kind of error, worker and minute; Bugsnag itself groups them.
PERIOD_SECONDS: Final = 60

_TIMEOUT_SECONDS: Final = 10
_PAYLOAD_VERSION: Final = "5"


class BugsnagReporter:
    """Posts errors with flavor, release and host."""

    name = "bugsnag"

    def __init__(self, api_key: str, endpoint: str, *, flavor: str, release: str) -> None:
        """
        Args:
            endpoint: URL of the notify API.
            flavor: reported as the release stage.
            release: version of the registry.

        Raises:
            ConfigError: the library or the endpoint cannot be used.
        """
        try:
            import requests  # noqa: F401
        except ImportError:
            raise ConfigError("bugsnag needs a library: pip install 'docker-registry[bugsnag]'.") from None
        try:
            parts = urlsplit(endpoint)
            is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # brackets without an IPv6 address, or a port that is no number up to 65535
            is_valid = False
        if not is_valid:
            raise ConfigError("bugsnag_endpoint must be a URL such as https://notify.bugsnag.com.")
        if not (api_key.isascii() and api_key.isprintable()):
            raise ConfigError("bugsnag must be an API key of Bugsnag: hexadecimal digits.")
        self._api_key = api_key
        self._endpoint = endpoint
        self._flavor = flavor
        self._release = release
        self._limiter = KindLimiter(PERIOD_SECONDS)

    def send(self, report: ErrorReport) -> None:
        """Post a report unless one of this kind was posted within the minute."""
        import requests

        missed = self._limiter.allow(report.kind)
        if missed is None:
            return
        answer = requests.post(
            self._endpoint,
            json=self._payload(report, missed),
            headers={
                "Bugsnag-Api-Key": self._api_key,
                "Bugsnag-Payload-Version": _PAYLOAD_VERSION,
                "Bugsnag-Sent-At": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            },
            timeout=_TIMEOUT_SECONDS,
            allow_redirects=False,
        )
        if answer.status_code >= 300:
            raise ConnectionError(f"Bugsnag answered {answer.status_code}.")

    def _payload(self, report: ErrorReport, missed: int) -> dict[str, Any]:
        exception = {
            "errorClass": report.error_class,
            "message": report.message,
            "stacktrace": [
                {"file": frame.file, "lineNumber": frame.line, "method": frame.function, "inProject": frame.is_ours}
                for frame in reversed(report.frames)
            ],
        }
        return {
            "payloadVersion": _PAYLOAD_VERSION,
            "notifier": {
                "name": "docker-registry",
                "version": self._release,
                "url": "https://pypi.org/project/docker-registry",
            },
            "events": [
                {
                    "exceptions": [exception],
                    "context": report.logged,
                    "groupingHash": report.kind,
                    "severity": "error",
                    "unhandled": True,
                    "app": {"version": self._release, "releaseStage": self._flavor},
                    "device": {"hostname": socket.gethostname()},
                    "metaData": {"log": {"logger": report.logger, "unreported": missed}},
                }
            ],
        }
