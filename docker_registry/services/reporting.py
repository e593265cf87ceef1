"""Opens what reports to operators: error reports and metrics."""

from __future__ import annotations

import os
from pathlib import Path

from docker_registry import __version__
from docker_registry.config.schema import Config
from docker_registry.error_reports.bugsnag import BugsnagReporter
from docker_registry.error_reports.mail import MailReporter, MailServer
from docker_registry.error_reports.report import ErrorReporter
from docker_registry.error_reports.sentry import SentryReporter
from docker_registry.metrics import listener
from docker_registry.metrics.server_metrics import ServerMetrics
from docker_registry.metrics.shared import FOLDER_VARIABLE
from docker_registry.registry.leases import Leases
from docker_registry.services.metrics_collector import MetricsCollector


def error_reporters(config: Config, leases: Leases) -> list[ErrorReporter]:
    """
    Return the configured reporters of errors.

    Raises:
        ConfigError: a setting is invalid, or a library is not installed.
    """
    reporters: list[ErrorReporter] = []
    mail = config.email_exceptions
    if mail.smtp_host:
        server = MailServer.parse(
            host=mail.smtp_host,
            port=mail.smtp_port,
            login=mail.smtp_login,
            password=mail.smtp_password,
            secure=mail.smtp_secure,
            ca_file=mail.smtp_ca,
            from_addr=mail.from_addr,
            to_addr=mail.to_addr,
        )
        reporters.append(MailReporter(server, leases, flavor=config.flavor, release=__version__))
    if config.bugsnag:
        reporters.append(
            BugsnagReporter(config.bugsnag, config.bugsnag_endpoint, flavor=config.flavor, release=__version__)
        )
    if config.sentry_dsn:
        reporters.append(SentryReporter(config.sentry_dsn, flavor=config.flavor, release=__version__))
    return reporters


def open_metrics(config: Config, metrics_collector: MetricsCollector) -> ServerMetrics:
    """
    Raises:
        ConfigError: the address of the metrics cannot be used.
    """
    if config.metrics_address:
        listener.open_socket(config.metrics_address).close()
    return ServerMetrics(shared_folder(), metrics_collector.collect, by_repository=config.metrics_by_repository)


def shared_folder() -> Path | None:
    """Return the folder in memory that the workers of a server share; None outside of a server."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return Path(folder) if folder else None
