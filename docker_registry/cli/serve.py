"""``docker-registry serve``: run the server."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from docker_registry.cli.check import check
from docker_registry.cli.command import CANNOT_RUN, Command, choose_file, load_config
from docker_registry.errors import RegistryError
from docker_registry.logs.setup import log_line, start_logging

if TYPE_CHECKING:
    from docker_registry.config.schema import Config
    from docker_registry.server.master import LogSettings

#: Longest check before a reload, during which the master starts no worker and does not stop.
RELOAD_CHECK_SECONDS: Final = 60


def run(arguments: argparse.Namespace) -> int:
    """Check the configuration and the store, then serve until a signal stops the server; return the exit status."""
    from docker_registry.metrics.shared import FOLDER_VARIABLE, make_folder
    from docker_registry.server import launch

    choose_file(getattr(arguments, "config", None))
    launch.check_environment(os.environ)
    launch.check_address(os.environ)
    gc.disable()  # imported modules never become garbage, so collection during import is wasted time
    try:
        launch.import_modules()

        # Import before the workers are forked, so that they share the memory.
        from docker_registry import app, services

        config = load_config()
        services.import_modules(config)
        app.import_routes(config)
    finally:
        gc.enable()
    uid, gid = launch.worker_ids(os.environ)
    launch.check_log_files(os.environ)
    folder = services.storage_folder(config)
    if folder is not None:
        launch.create_store_folder(folder, uid, gid)

    def check_as_worker(config: Config) -> int:
        launch.become_like_worker(uid, gid)  # files that the check creates in the store must belong to the workers
        start_logging(config.loglevel, config.log_format)
        summary = check(config)
        with suppress(OSError):  # such as a full disk or a closed pipe: only the summary is lost
            for line in summary.lines():
                print(log_line(line, config.log_format), flush=True)
        return 0

    # Check in a child process: no connection or thread may exist when gunicorn forks its workers.
    status = _check_in_child(lambda: check_as_worker(config))
    if status:
        return status
    _warn_if_open(config)
    metrics_folder = make_folder(uid, gid)
    os.environ[FOLDER_VARIABLE] = str(metrics_folder)
    master = os.getpid()
    try:
        return launch.run(
            os.environ,
            log_settings=_log_settings,
            can_start=lambda: _check_in_child(lambda: check_as_worker(load_config()), RELOAD_CHECK_SECONDS) == 0,
        )
    finally:
        if os.getpid() == master:  # workers are forks of this process and return here as well
            shutil.rmtree(metrics_folder, ignore_errors=True)


def _warn_if_open(config: Config) -> None:
    """Warn if all clients may do everything and the address is not limited to this machine."""
    from docker_registry import services
    from docker_registry.server import launch

    requires_certificates = config.tls.client_ca is not None and config.tls.client_certificates == "required"
    if services.has_access_control(config) or requires_certificates or launch.is_loopback(os.environ):
        return
    warning = (
        f"docker-registry: warning: anyone who reaches {', '.join(launch.addresses(os.environ))} may pull, push, "
        "overwrite and delete, since neither auth.htpasswd nor auth.rules is set"
    )
    print(log_line(warning, config.log_format, logging.WARNING), file=sys.stderr, flush=True)


def _log_settings() -> LogSettings:
    from docker_registry.server.master import LogSettings

    config = load_config()
    return LogSettings(config.log_format, config.tls.certificate)


def _check_in_child(work: Callable[[], int], limit_seconds: int = 0) -> int:
    """
    Run a function in a child process and return its exit status.

    The child prints the error that the function raises. It ends in any case: as a copy of gunicorn's master, it would
    stop the workers.

    Args:
        limit_seconds: after which the child is ended, with status 2; 0 for no limit.
    """
    print(end="", flush=True)  # standard output is None if it was closed before the start
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == -signal.SIGALRM:
            print(f"docker-registry: the check did not end within {limit_seconds} s", file=sys.stderr)
            return CANNOT_RUN
        if status < 0:  # such as for lack of memory
            print(f"docker-registry: the check was ended by a signal: {signal.strsignal(-status)}", file=sys.stderr)
            return CANNOT_RUN
        return status
    status = CANNOT_RUN
    try:
        # By the kernel: a system call that hangs keeps Python from running anything. The master must not look for the
        # end of the child itself, because gunicorn reaps all children as soon as it can.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(limit_seconds)
        status = work()
    except RegistryError as error:
        print(f"docker-registry: {error}", file=sys.stderr)
    except Exception:  # noqa: BLE001 - printed
        traceback.print_exc()
    finally:
        try:
            print(end="", flush=True)
        finally:
            os._exit(status)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="the configuration file")


COMMAND: Final = Command("serve", "run the server (the default command)", run, _add_arguments)
