"""Errors reach people: by a real mail server, and by real HTTP endpoints."""

from __future__ import annotations

import json
import logging
import os
import queue
import socket
import sys
import time
from email import message_from_bytes, policy

import pytest
import requests

from docker_registry import __version__, services
from docker_registry.config.schema import Config
from docker_registry.config.sections import EmailExceptions
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.error_reports.limiter import KindLimiter
from docker_registry.error_reports.mail import MailReporter
from docker_registry.error_reports.redaction import Redactor
from docker_registry.error_reports.report import MAX_MESSAGE_CHARACTERS, report_of
from docker_registry.error_reports.reporting import ErrorReporting
from docker_registry.errors import ConfigError
from docker_registry.registry.leases import Leases
from tests.support.processes import free_port
from tests.support.servers.receivers import MailServer, http_receiver, self_signed
from tests.support.servers.registry import Server
from tests.support.timing import PATIENCE_SECONDS, wait_until

WORKER = "docker_registry.server.worker.RegistryWorker"
APPLICATION = "tests.support.failing_application:application"
SECRETS = ("hunter2pass", "aHVudGVy", "cookie-s3cret", "query-s3cret", "s3cret-of-mail", "bugsnag-s3cret", "eyJh")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("mail"))


@pytest.fixture(scope="module")
def mail(certificate):
    with MailServer(certificate) as server:
        yield server


def failing_server(store, workers=1, **environment):
    """A registry with a route that fails."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-k", WORKER, "-b", f"127.0.0.1:{port}", "-w", str(workers)]
    return Server(store, command=[*command, APPLICATION], port=port, **environment)


def fail(server):
    """Make the registry fail, by a request that is full of secrets."""
    began = time.monotonic()
    answer = requests.get(
        f"{server.url}/fail?token=query-s3cret&note=Bearer%20eyJhbGciOi.eyJzdWIi.c2ln",
        auth=("me", "hunter2pass"),
        headers={"Cookie": "session=cookie-s3cret"},
        timeout=20,
    )
    assert 500 == answer.status_code
    assert "hunter2pass" not in answer.text
    return time.monotonic() - began


class TestAnUnexpectedError:
    def test_reaches_people_once_and_without_secrets(self, tmp_path, mail):
        with http_receiver() as (bugsnag, notified), http_receiver() as (sentry, sent):
            environment = {
                **mail.environment,
                "BUGSNAG": "bugsnag-s3cret",
                "BUGSNAG_ENDPOINT": bugsnag,
                "SENTRY_DSN": f"{sentry.replace('//', '//key@')}/7",
            }
            with failing_server(tmp_path / "store", workers=2, **environment) as server:
                for _ in range(20):  # both workers
                    fail(server)
                envelope, was_encrypted = mail.received.get(timeout=PATIENCE_SECONDS)
                _, headers, body = notified.get(timeout=PATIENCE_SECONDS)
                path, _, event = sent.get(timeout=PATIENCE_SECONDS)
                with pytest.raises(queue.Empty):
                    mail.received.get(timeout=1)

        text = message_from_bytes(envelope.content, policy=policy.default).get_content()
        for report in (envelope.content.decode(), text, body.decode(), event.decode()):
            assert "LookupError" in report
            assert [] == [secret for secret in SECRETS if secret in report]
        assert was_encrypted
        assert ["ops@example.com", "night@example.com"] == envelope.rcpt_tos
        assert "GET /fail failed" in text
        assert "raise LookupError" in text
        (error,) = json.loads(body)["events"]
        assert ("bugsnag-s3cret", "5") == (headers["Bugsnag-Api-Key"], headers["Bugsnag-Payload-Version"])
        assert {"version": __version__, "releaseStage": "dev"} == error["app"]
        assert "fail" == error["exceptions"][0]["stacktrace"][0]["method"]
        assert "/api/7/envelope/" == path
        assert f"docker-registry@{__version__}" in event.decode()

    def test_of_the_store_is_reported_too(self, tmp_path, mail):
        with Server(tmp_path / "store", **mail.environment) as server:
            server.store.rename(tmp_path / "elsewhere")
            server.store.write_text("no folder")
            assert requests.get(f"{server.url}/v2/a/manifests/x", timeout=20).status_code >= 500
            envelope, _ = mail.received.get(timeout=PATIENCE_SECONDS)
        assert "/v2/a/manifests/x" in envelope.content.decode()

    def test_is_answered_at_once_while_one_receiver_hangs_and_one_fails(self, tmp_path):
        with (
            socket.create_server(("127.0.0.1", 0)) as silent,
            http_receiver(status=403) as (bugsnag, notified),
            failing_server(
                tmp_path / "store",
                SMTP_HOST="127.0.0.1",
                SMTP_PORT=str(silent.getsockname()[1]),
                BUGSNAG="key",
                BUGSNAG_ENDPOINT=bugsnag,
            ) as server,
        ):
            assert 9 > max(fail(server) for _ in range(5))  # the mail server is given up after 10 seconds
            assert 200 == requests.get(f"{server.url}/v2/", timeout=20).status_code
            notified.get(timeout=PATIENCE_SECONDS)
            wait_until(lambda: "Bugsnag answered 403" in server.log.read_text())
        assert 1 == server.log.read_text().count(
            "an error could not be reported: ConnectionError: Bugsnag answered 403"
        )


class TestAReport:
    def test_has_long_messages_cut_and_redacted_also_in_its_traceback(self):
        try:
            try:
                raise KeyError("first " + "x" * 50_000)
            except KeyError as cause:
                raise ValueError("password=s3cret " + "y" * 50_000) from cause
        except ValueError:
            error = sys.exc_info()
        record = logging.getLogger("x").makeRecord("docker_registry.x", logging.ERROR, __file__, 1, "oops", (), error)
        report = report_of(record, Redactor())
        assert "KeyError: 'first xxx" in report.traceback
        assert "\nValueError: password=******** yyy" in report.traceback
        assert report.traceback.endswith("y\n")
        assert MAX_MESSAGE_CHARACTERS == len(report.message)
        assert len(report.traceback) < 3 * MAX_MESSAGE_CHARACTERS

    def test_can_be_sent_if_it_names_a_file_that_is_not_utf_8(self):
        error = OSError(os.fsdecode(b"caf\xe9"))
        info = (OSError, error, None)
        record = logging.getLogger("x").makeRecord("docker_registry.x", logging.ERROR, __file__, 1, "oops", (), info)
        report = report_of(record, Redactor())
        assert (report.message + report.traceback).encode()


class TestTheHook:
    def test_drops_reports_beyond_its_bound(self):
        class Stuck:
            name = "stuck"

            def send(self, report):
                time.sleep(0.2)

        reporting = ErrorReporting([Stuck()], Redactor())
        record = logging.getLogger("x").makeRecord("docker_registry.x", logging.ERROR, __file__, 1, "oops", (), None)
        for _ in range(300):
            reporting.handle(record)
        reporting.close()


class TestOneKindOfError:
    def test_is_reported_once_in_a_period(self):
        now = [0.0]
        limiter = KindLimiter(60, lambda: now[0])
        assert [0, None, None, 0] == [limiter.allow(kind) for kind in "aaab"]
        now[0] = 60.0
        assert 2 == limiter.allow("a")

    def test_is_mailed_by_one_host_alone(self, mail, certificate):
        driver = MemoryDriver()
        config = Config(
            storage="memory",
            email_exceptions=EmailExceptions(
                smtp_host="127.0.0.1",
                smtp_port=mail.port,
                smtp_login="registry",
                smtp_password="s3cret-of-mail",
                smtp_secure=str(certificate),  # the file of a key, and of its certificate
                smtp_ca=certificate,
                to_addr="one@example.com",
            ),
        )
        record = logging.getLogger("x").makeRecord("docker_registry.x", logging.ERROR, __file__, 1, "oops", (), None)
        for _ in range(2):  # hosts
            (reporter,) = services.error_reporters(config, Leases(driver))
            assert isinstance(reporter, MailReporter)
            with ErrorReports(reporter) as reporting:
                reporting.handle(record)
        assert ["one@example.com"] == mail.received.get(timeout=PATIENCE_SECONDS)[0].rcpt_tos
        with pytest.raises(queue.Empty):
            mail.received.get(timeout=1)


class ErrorReports(ErrorReporting):
    """The hook with one reporter, as a context manager."""

    def __init__(self, reporter):
        super().__init__([reporter], Redactor())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class TestInvalidSettings:
    @pytest.mark.parametrize(
        ("expected", "mail"),
        [
            ("smtp_port", {"smtp_port": 70000}),
            ("smtp_login and smtp_password", {"smtp_login": "me"}),
            ("smtp_secure", {"smtp_secure": "/no/file"}),
            ("smtp_secure", {"smtp_secure": "~unknown/file"}),
            ("smtp_secure", {"smtp_secure": "a\0b"}),
            ("smtp_ca", {"smtp_secure": "true", "smtp_ca": "/no/file"}),
            ("to_addr", {"to_addr": "nobody"}),
            ("to_addr", {"to_addr": "a@b.c\nBcc: d@e.f"}),
            ("from_addr", {"from_addr": "@"}),
        ],
    )
    def test_of_mail_stops_the_start(self, expected, mail):
        config = Config(storage="memory", email_exceptions=EmailExceptions(smtp_host="127.0.0.1", **mail))
        with pytest.raises(ConfigError, match=expected):
            services.build(config, MemoryDriver())

    @pytest.mark.filterwarnings("ignore:(?s).*Eventlet")  # the library of Sentry tries to import it
    @pytest.mark.parametrize(
        ("expected", "settings"),
        [
            ("bugsnag_endpoint", {"bugsnag": "key", "bugsnag_endpoint": "ftp://x"}),
            ("bugsnag_endpoint", {"bugsnag": "key", "bugsnag_endpoint": "https://[x"}),
            ("bugsnag_endpoint", {"bugsnag": "key", "bugsnag_endpoint": "https://x:99999"}),
            ("bugsnag must", {"bugsnag": "a\nb"}),
            ("sentry_dsn", {"sentry_dsn": "nowhere"}),
            ("sentry_dsn", {"sentry_dsn": "https://key@sentry.example:99999/1"}),
        ],
    )
    def test_of_other_reporters_stops_the_start(self, expected, settings):
        with pytest.raises(ConfigError, match=expected):
            services.build(Config(storage="memory", **settings), MemoryDriver())


class TestRedaction:
    @pytest.mark.parametrize(
        "text",
        [
            "Authorization: Basic czNjcmV0",
            "{'Authorization': 'Token signature=s3cret,repository=\"a\"'}",
            "Bearer s3cret.token",
            "https://me:s3cret@host/x",
            "postgresql://me@server:s3cret@host/x",
            "?X-Amz-Signature=s3cret&x=1",
            "temp_url_sig=s3cret",
            '{"password": "s3cret"}',
            "known-s3cret",
        ],
    )
    def test_masks_secrets(self, text):
        redacted = Redactor(["known-s3cret"]).redact(text)
        assert ("s3cret" in redacted, "czNj" in redacted, "****" in redacted) == (False, False, True)

    def test_masks_a_signed_text_inside_a_word(self):
        assert "x_********, eyJnone" == Redactor().redact("x_eyJhbGci.eyJzdWIi.c2ln, eyJnone")

    def test_takes_linear_time_for_long_words(self):
        """A client chooses the path in a log message; with quadratic time, this test would take minutes."""
        for text in ("a-" * 20_000, "eyJ" * 14_000):
            assert text == Redactor().redact(text)

    def test_leaves_other_text(self):
        text = "GET /v2/a/manifests/x failed: KeyError 'sha256:abc' at https://host:5000/x"
        assert text == Redactor(["a"]).redact(text).replace("********", "a")
