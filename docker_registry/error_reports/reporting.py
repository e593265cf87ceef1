"""
The hook for error reporters: a log handler that passes every logged error on, outside the request.

Everything that the registry or gunicorn logs at level ``error`` or above is reported: unexpected exceptions, failures
of the store, and failures of background work. Each reporter has a bounded queue and a thread (a greenlet in a server
worker), so that a server that hangs delays neither requests nor other reporters. Reporters log their own failures as
warnings, which are not reported.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterable
from typing import Final

from docker_registry.error_reports.redaction import Redactor
from docker_registry.error_reports.report import ErrorReport, ErrorReporter, report_of

logger = logging.getLogger(__name__)

#: Reports that wait for one reporter; further ones are dropped.
MAX_WAITING: Final = 100

#: The loggers that are watched. Errors while a response is being sent are logged by gunicorn.
_WATCHED: Final = ("docker_registry", "gunicorn.error")


class ErrorReporting(logging.Handler):
    """Passes logged errors to all reporters; never blocks and never raises."""

    def __init__(self, reporters: Iterable[ErrorReporter], redactor: Redactor) -> None:
        """
        Args:
            redactor: removes secrets from reports.
        """
        super().__init__(logging.ERROR)
        self._redactor = redactor
        self._outboxes = tuple(_Outbox(reporter) for reporter in reporters)

    def watch(self) -> None:
        """Report what is logged from now on; does nothing without reporters."""
        if self._outboxes:
            for name in _WATCHED:
                logging.getLogger(name).addHandler(self)

    def close(self) -> None:
        """Report nothing any more."""
        for name in _WATCHED:
            logging.getLogger(name).removeHandler(self)
        for outbox in self._outboxes:
            outbox.close()
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the report of a log record for every reporter."""
        try:
            report = report_of(record, self._redactor)
        except Exception:
            logger.warning("an error could not be reported", exc_info=True)
            return
        for outbox in self._outboxes:
            outbox.put(report)


class _Outbox:
    """The queue and the thread of one reporter."""

    def __init__(self, reporter: ErrorReporter) -> None:
        self._reporter = reporter
        self._waiting: queue.Queue[ErrorReport | None] = queue.Queue(MAX_WAITING)
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, report: ErrorReport) -> None:
        """Queue a report, or drop it when too many are waiting."""
        # The thread starts with the first report: a process that forks must have none.
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._reporter.name, daemon=True)
                self._thread.start()
        try:
            self._waiting.put_nowait(report)
        except queue.Full:
            logger.warning("%s: too many errors are waiting to be reported, one was dropped", self._reporter.name)

    def close(self) -> None:
        """End the thread once it has sent the reports that are waiting."""
        if self._thread is not None:
            try:
                self._waiting.put_nowait(None)
            except queue.Full:
                pass

    def _run(self) -> None:
        while (report := self._waiting.get()) is not None:
            try:
                self._reporter.send(report)
            except Exception as error:  # noqa: BLE001 - one failed report must not prevent the next
                logger.warning("%s: an error could not be reported: %s", self._reporter.name, _describe(error))


def _describe(error: Exception) -> str:
    """Return class and text of an error; servers answer with texts of several lines."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
