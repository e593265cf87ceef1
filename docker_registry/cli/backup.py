"""``docker-registry backup DIR``: copy the store into a folder while the registry is running."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from docker_registry.cli.command import INCOMPLETE, Command, load_config
from docker_registry.cli.progress import ProgressLine

if TYPE_CHECKING:
    from docker_registry.registry.maintenance.copy_report import CopyReport


def run(arguments: argparse.Namespace) -> int:
    """Back up the store and print a report; may be interrupted and repeated."""
    from docker_registry import services
    from docker_registry.registry.maintenance.backup import Backup
    from docker_registry.registry.maintenance.backup_folder import BackupFolder

    driver = services.open_store(load_config())
    line = ProgressLine()
    backup = Backup(driver, BackupFolder(Path(arguments.folder)), verify_all=arguments.verify, progress=line.show)
    try:
        report = backup.run()
    finally:
        line.end()
    return print_report(report, as_json=arguments.json)


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
