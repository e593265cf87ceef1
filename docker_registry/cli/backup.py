"""``docker-registry backup DIR``: copy the store into a folder while the registry is running."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from docker_registry.cli.command import INCOMPLETE, Command, load_store_config
from docker_registry.cli.progress import ProgressLine

if TYPE_CHECKING:
    from docker_registry.registry.maintenance.copy_report import CopyReport


def run(arguments: argparse.Namespace) -> int:
    """
    Back up the store and print a report; may be interrupted and repeated.

    Raises:
        ConfigError: the folder of the backup is that of the store, inside it, or around it.
    """
    from docker_registry import services
    from docker_registry.errors import ConfigError
    from docker_registry.registry.maintenance.backup import Backup
    from docker_registry.registry.maintenance.backup_folder import BackupFolder

    config, folder = load_store_config(), Path(arguments.folder)
    store = services.storage_folder(config)
    if store is not None and (_is_within(folder, store) or _is_within(store, folder)):
        raise ConfigError(f"The folder of the backup must be outside of that of the store, {store}.")
    driver = services.open_store(config)
    line = ProgressLine()
    backup = Backup(driver, BackupFolder(folder), verify_all=arguments.verify, progress=line.show)
    try:
        report = backup.run()
    finally:
        line.end()
    return print_report(report, as_json=arguments.json)


def _is_within(inner: Path, outer: Path) -> bool:
    """Return whether *inner* is *outer* or below it, with symbolic links resolved."""
    resolved = inner.resolve()
    identity = _identity(outer)
    return identity is not None and any(_identity(each) == identity for each in (resolved, *resolved.parents))


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:  # it does not exist yet, or cannot be seen
        return None
    return status.st_dev, status.st_ino


def print_report(report: CopyReport, *, as_json: bool) -> int:
    """Print a report and return the exit status: INCOMPLETE if damage was found."""
    if as_json:
        print(json.dumps(report.to_json()))
    else:
        print(f"{report.copied_files} of {report.files} files copied ({report.copied_bytes} bytes)")
        if report.removed_files:
            print(f"{report.removed_files} files removed from the backup")
        for damage in report.damaged:
            print(f"damaged: {damage.path}: {damage.reason}")
    return INCOMPLETE if report.damaged else 0


def add_folder(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that ``backup`` and ``restore-backup`` share."""
    parser.add_argument("folder", metavar="DIR", help="the folder of the backup")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON document")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_folder(parser)
    parser.add_argument("--verify", action="store_true", help="also verify blobs that the backup already has")


COMMAND: Final = Command("backup", "copy the store into a folder while the registry goes on", run, _add_arguments)
