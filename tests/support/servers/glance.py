"""A real Glance on a free port of loopback: one store of files, no Keystone, and MariaDB: SQLite fails many writers."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support import processes
from tests.support.clients import programs
from tests.support.servers import databases_and_stores

_CONFIGURATION = """
[DEFAULT]
enabled_backends = lab:file
log_file = {folder}/glance.log
use_stderr = false
public_endpoint = http://127.0.0.1:{port}
[database]
connection = {database}
[glance_store]
default_backend = lab
[lab]
filesystem_store_datadir = {folder}/images
[os_glance_staging_store]
filesystem_store_datadir = {folder}/staging
[os_glance_tasks_store]
filesystem_store_datadir = {folder}/tasks
[paste_deploy]
config_file = {folder}/paste.ini
flavor =
[oslo_policy]
enforce_scope = false
enforce_new_defaults = false
[oslo_concurrency]
lock_path = {folder}
"""

_PASTE = """
[pipeline:glance-api]
pipeline = unauthenticated-context rootapp
[composite:rootapp]
paste.composite_factory = glance.api:root_app_factory
/: apiversions
/v2: apiv2app
[app:apiversions]
paste.app_factory = glance.api.versions:create_resource
[app:apiv2app]
paste.app_factory = glance.api.v2.router:API.factory
[filter:unauthenticated-context]
paste.filter_factory = glance.api.middleware.context:UnauthenticatedContextMiddleware.factory
"""


@dataclass(frozen=True)
class GlanceServer:
    """Where it listens."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def run_glance() -> Iterator[GlanceServer]:
    """Run it for the duration of a ``with`` block."""
    # A separate environment inside that of the tests (contrib/check creates it): the libraries of our driver would
    # import packages that only Glance needs, and the tests would not run what users have.
    programs_folder = Path(sys.prefix) / "glance" / "bin"
    if not (programs_folder / "glance-manage").exists():
        programs.missing(f"glance is not installed in {programs_folder.parent} (contrib/check does it)")
    with databases_and_stores.MariaDB() as mariadb:
        url = mariadb.create_database()
        mariadb.execute(f"ALTER DATABASE {url.rpartition('/')[2]} CHARACTER SET utf8mb4")
        with _run(programs_folder, url.replace("mysql://", "mysql+pymysql://") + "?charset=utf8mb4") as server:
            yield server


@contextlib.contextmanager
def _run(programs_folder: Path, database: str) -> Iterator[GlanceServer]:
    folder = Path(tempfile.mkdtemp(prefix="docker-registry-tests-"))
    port = processes.free_port()
    configuration = folder / "glance-api.conf"
    configuration.write_text(_CONFIGURATION.format(folder=folder, port=port, database=database))
    (folder / "paste.ini").write_text(_PASTE)
    programs.Tool([str(programs_folder / "glance-manage"), f"--config-file={configuration}"])("db_sync")
    command = [
        str(programs_folder / "gunicorn"), "--bind", f"127.0.0.1:{port}", "--workers", "1", "--threads", "16",
        "--no-control-socket", "glance.wsgi.api:application",
    ]  # fmt: skip

    def answers() -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/images", timeout=10).close()
        except OSError:
            return False
        return True

    environment = {"OS_GLANCE_CONFIG_DIR": str(folder)}
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.enter_context(processes.running(command, folder / "log", answers, environment, is_discarded=True))
        yield GlanceServer(port)
