"""``docker-registry check``: check the configuration and the store without serving."""

from __future__ import annotations

import argparse
import json
import logging
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from docker_registry import __version__
from docker_registry.cli.command import Command, add_json, choose_file, load_config
from docker_registry.errors import StorageError

if TYPE_CHECKING:
    from docker_registry.config.schema import Config

logger = logging.getLogger(__name__)


def run(chosen: argparse.Namespace) -> int:
    """
    Run the checks of a start, also beside a running server.

    As at a start, a missing storage folder is created, and the process switches to the user of the workers.

    Returns:
        0; every failure is raised.
    """
    from docker_registry import services
    from docker_registry.cli.store_owner import act_as_owner
    from docker_registry.server import launch

    choose_file(chosen.config)
    launch.check_environment(os.environ)
    launch.check_address(os.environ, may_be_in_use=True)
    uid, gid = launch.worker_ids(os.environ)
    launch.check_log_files(os.environ)
    config = load_config()
    folder = services.storage_folder(config)
    if folder is not None:
        launch.create_store_folder(folder, uid, gid)
    launch.switch_user(uid, gid)
    if folder is not None:
        act_as_owner(folder)
    summary = check(config)
    print(json.dumps(asdict(summary)) if chosen.json else "\n".join(summary.lines()))
    return 0


@dataclass(frozen=True, slots=True)
class Summary:
    """
    What a check has found.

    Attributes:
        private_repositories: their number.
        private_visible_to: the clients that see them.
        read_only: why writes are refused; None if they are not.
    """

    version: str
    flavor: str
    path: str
    storage: str
    private_repositories: int
    private_visible_to: str
    read_only: str | None

    def lines(self) -> list[str]:
        """Return the summary as text."""
        lines = [f"docker-registry {self.version}, flavor {self.flavor} of {self.path}, storage {self.storage}"]
        if self.read_only is not None:
            lines.append(f"read-only: {self.read_only}")
        if self.private_repositories:
            noun = "repository" if self.private_repositories == 1 else "repositories"
            lines.append(f"{self.private_repositories} private {noun}, visible to {self.private_visible_to}")
        return lines


def check(config: Config) -> Summary:
    """
    Check gunicorn's options, build all services and the application, and write to the store (only read it while the
    registry is read-only). Redis that does not answer, and variables without effect, are only warned about.

    Raises:
        ConfigError, StorageError: gunicorn rejects an option, the TLS files cannot be used,
            :func:`docker_registry.services.build`, :meth:`~docker_registry.services.Services.check_start` or
            :func:`docker_registry.app.create_app` fails, or the store cannot be used.
    """
    from docker_registry import services
    from docker_registry.app import create_app
    from docker_registry.config.unused_variables import unused_variables
    from docker_registry.server import launch

    launch.check_options(os.environ, config.tls)
    for sentence in unused_variables(os.environ):
        logger.warning("%s", sentence)
    with services.build(config) as built:
        built.check_start()
        create_app(built)
        built.read_only.refresh()
        try:
            built.probe_store()
        except StorageError as error:
            raise StorageError(f"The store cannot be used: {error}") from None
        _warn_without_redis(config)
        return Summary(
            version=__version__,
            flavor=config.flavor,
            path=str(config.path),
            storage=config.storage,
            private_repositories=len(built.registry.private_repositories.names()),
            private_visible_to=_private_visible_to(config),
            read_only=built.read_only.why,
        )


def _warn_without_redis(config: Config) -> None:
    from docker_registry import services

    queue = services.open_diff_queue(config)  # in the Redis that hosts share, for API V2 too
    if queue is None:
        return
    try:
        queue.ping()
    except StorageError as error:  # the server works without it
        logger.warning("cache: %s", error)
    finally:
        queue.close()


def _private_visible_to(config: Config) -> str:
    """Return which clients see private repositories."""
    from docker_registry import services

    if config.serve_private:
        return "everyone (serve_private)"
    if not config.standalone and config.disable_token_auth:
        return "everyone (disable_token_auth)"
    if not config.standalone:
        return "clients with a token of the Index"
    return "users whose rules allow it" if services.has_access_control(config) else "no client (serve_private)"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="the configuration file")


COMMAND: Final = Command("check", "check the configuration and the store without serving", run, _add_arguments)
