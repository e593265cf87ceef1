"""``docker-registry check``: test the configuration and the store without serving."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Final

from docker_registry import __version__
from docker_registry.cli.command import Command, load_config
from docker_registry.errors import StorageError
from docker_registry.logs.setup import log_line

if TYPE_CHECKING:
    from docker_registry.config.schema import Config


def run(_: argparse.Namespace) -> int:
    """Check what the server checks when it starts; the server may be running."""
    from docker_registry import services
    from docker_registry.server import launch

    launch.check_environment(os.environ)
    launch.check_address(os.environ, may_be_in_use=True)
    uid, gid = launch.owner(os.environ)
    config = load_config()
    folder = services.storage_folder(config)
    if folder is not None:
        launch.give_folder(folder, uid, gid)
    launch.become(uid, gid)
    return check(config)


def check(config: Config, log_format: str = "text") -> int:
    """
    Check gunicorn's options, build all services, try out the store, and print a summary.

    Args:
        log_format: of the summary.

    Raises:
        ConfigError, StorageError: gunicorn rejects an option, the TLS files cannot be used,
            :func:`docker_registry.services.build` or :meth:`~docker_registry.services.Services.check_start` fails, or
            the store cannot be written.
    """
    from docker_registry import services
    from docker_registry.server import launch

    launch.check_options(os.environ, config.tls)
    with services.build(config) as built:
        built.check_start()
        built.read_only.refresh()
        try:
            built.probe_store()
        except StorageError as error:
            raise StorageError(f"The store cannot be written: {error}") from None
        private_repositories = len(built.registry.private_repositories.names())
        for line in _lines(config, private_repositories, built.read_only.why):
            print(log_line(line, log_format))
    return 0


def _lines(config: Config, private_repositories: int, why_read_only: str | None) -> list[str]:
    lines = [f"docker-registry {__version__}, flavor {config.flavor} of {config.path}, storage {config.storage}"]
    if why_read_only is not None:
        lines.append(f"read-only: {why_read_only}")
    if private_repositories:
        noun = "repository" if private_repositories == 1 else "repositories"
        access = "everyone may see them" if config.serve_private else "hidden from everyone"
        lines.append(f"{private_repositories} private {noun}: {access} (serve_private)")
    return lines


COMMAND: Final = Command("check", "try out the configuration and the store without serving", run)
