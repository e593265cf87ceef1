"""``docker-registry restore-backup DIR``: copy a backup into the store."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from docker_registry.cli.backup import add_folder, print_report
from docker_registry.cli.command import Command, load_store_config
from docker_registry.cli.progress import ProgressLine


def run(arguments: argparse.Namespace) -> int:
    """Restore a backup and print a report; may be interrupted and repeated."""
    from docker_registry import services
    from docker_registry.registry.maintenance.backup_folder import BackupFolder
    from docker_registry.registry.maintenance.restoration import Restoration

    driver = services.open_store(load_store_config())
    line = ProgressLine()
    folder = BackupFolder(Path(arguments.folder))
    restoration = Restoration(driver, folder, overwrite=arguments.overwrite, progress=line.show)
    try:
        report = restoration.run()
    finally:
        line.end()
    return print_report(report, as_json=arguments.json)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_folder(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="restore into a store that is not empty; its other content is kept"
    )


COMMAND: Final = Command(
    "restore-backup", "copy a backup into the store; stop the servers first", run, _add_arguments, lambda _: True
)
