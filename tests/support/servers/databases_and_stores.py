"""
Real servers for the tests: each on a free port of loopback, in its own folder, stopped by its process id.

A machine without the program skips the tests that need it with one line; continuous integration fails. A
``conftest.py`` imports the fixtures that its tests use.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.clients import programs

PASSWORD = "correct-horse"
USER = "registry"


def find(program):
    """Return the path of a program that the package postgresql keeps in a folder of its version, or any other."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    return str(versions[-1]) if versions else processes.find(program)


def require(program, package):
    """
    Return the path of a program.

    Args:
        package: the Debian package that contains it.
    """
    return find(program) or programs.missing(f"{program} is not installed (Debian package {package})")


class DatabaseServer:
    """
    A database server that runs while this context is entered.

    Subclasses define how it is created and started, and the URLs of its databases.
    """

    account = ""

    def __init__(self):
        self.port = processes.free_port()
        # Not pytest's folder, which only root may enter, while no database server runs as root.
        self.folder = Path(tempfile.mkdtemp(prefix="docker-registry-tests-"))
        # Both refuse to run as root; if the tests run as another user, the server does so too.
        self.user = self.account if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        self._count = 0

    def __enter__(self):
        self.folder.chmod(0o755)
        shutil.chown(self.folder, self.user)
        self.make()
        self.start()
        return self

    def __exit__(self, *_):
        self.stop(self.discard_signal)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self):
        """Start the server and wait until it answers."""
        self._log = (self.folder / "log").open("ab")
        self._process = subprocess.Popen(
            processes.bound(self.command()), stdout=self._log, stderr=self._log, cwd=self.folder, **self.identity()
        )
        deadline = time.monotonic() + 120
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the database server does not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self, number=None):
        """
        Stop the server at once; it can be started again.

        Args:
            number: a signal; by default the one after which nothing is lost.
        """
        self._process.send_signal(number or self.stop_signal)
        self._process.wait(60)
        self._log.close()

    def run(self, *command):
        """Run a program as the user of the server."""
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=self.folder, **self.identity())
        assert 0 == done.returncode, done.stderr

    def identity(self):
        if os.geteuid() != 0:
            return {}
        account = pwd.getpwnam(self.user)
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}

    def create_database(self):
        """Create an empty database and return its URL."""
        self._count += 1
        name = f"search{self._count}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database):
        """Return the URL of a database, as an operator would write it."""
        return f"{self.scheme}://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"


class PostgreSQL(DatabaseServer):
    """PostgreSQL without durability."""

    account = "postgres"
    scheme = "postgresql"
    stop_signal = signal.SIGINT  # "fast shutdown": waits for no client
    discard_signal = signal.SIGQUIT  # "immediate shutdown": writes nothing, but releases its shared memory

    def __init__(self):
        self._initdb = require("initdb", "postgresql")
        self._postgres = require("postgres", "postgresql")
        pytest.importorskip("psycopg")
        super().__init__()

    def make(self):
        password = self.folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        self.run(
            self._initdb, "-D", str(self.folder / "data"), "-U", USER, "-A", "scram-sha-256",
            f"--pwfile={password}", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync",
        )  # fmt: skip

    def command(self):
        folder = str(self.folder)
        options = ["-F", "-h", "127.0.0.1", "-p", str(self.port), "-k", folder, "-c", "max_connections=200"]
        return [self._postgres, "-D", f"{folder}/data", *options]

    def answers(self):
        import psycopg

        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def execute(self, statement):
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return [row[0] for row in cursor.fetchall()] if cursor.description else []


class MariaDB(DatabaseServer):
    """MariaDB without durability."""

    account = "mysql"
    scheme = "mysql"
    stop_signal = signal.SIGTERM
    discard_signal = signal.SIGKILL

    def __init__(self):
        self._install = require("mariadb-install-db", "mariadb-server")
        self._mariadbd = require("mariadbd", "mariadb-server")
        pytest.importorskip("pymysql")
        super().__init__()

    def make(self):
        (self.folder / "init.sql").write_text(
            f"CREATE USER IF NOT EXISTS {USER}@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\n"
            f"GRANT ALL ON *.* TO {USER}@'127.0.0.1';\n"
        )
        self.run(
            self._install, "--no-defaults", f"--datadir={self.folder}/data", "--skip-test-db", "--skip-name-resolve",
            "--auth-root-authentication-method=normal", self._own_tmpdir(),
        )  # fmt: skip

    def command(self):
        folder = str(self.folder)
        return [
            self._mariadbd, "--no-defaults", f"--datadir={folder}/data", "--bind-address=127.0.0.1",
            f"--port={self.port}", f"--socket={folder}/socket", f"--pid-file={folder}/pid", "--skip-name-resolve",
            f"--init-file={folder}/init.sql", "--innodb-flush-log-at-trx-commit=0", "--max-connections=200",
            self._own_tmpdir(),
            # An old default of some hosts, on which our tables must not depend.
            "--character-set-server=latin1",
        ]  # fmt: skip

    def _own_tmpdir(self):
        """One that starts removes what it takes for its own in there, also of another that starts at the same time."""
        return f"--tmpdir={self.folder}"

    def answers(self):
        import pymysql

        try:
            self.execute("SELECT 1")
        except pymysql.err.OperationalError:
            return False
        return True

    def execute(self, statement):
        import pymysql

        # Without TLS, whose certificate authorities every connection would load anew.
        login = {"user": USER, "password": PASSWORD, "ssl_disabled": True}
        connection = pymysql.connect(host="127.0.0.1", port=self.port, **login)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return [row[0] for row in cursor.fetchall()]
        finally:
            connection.close()


class SQLite:
    """SQLite databases behind the same interface; there is no server."""

    def __init__(self, folder):
        self._folder = folder
        self._count = 0

    def create_database(self):
        """Return the URL of a database that does not exist yet."""
        self._count += 1
        return f"sqlite:///{self._folder}/search{self._count}.db"


@pytest.fixture(scope="session")
def sqlite(tmp_path_factory):
    return SQLite(tmp_path_factory.mktemp("sqlite"))


@pytest.fixture(scope="session")
def postgresql():
    with PostgreSQL() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb():
    with MariaDB() as server:
        yield server
