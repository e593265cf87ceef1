"""``docker-registry migrate``: convert the layers of docker-registry 0.6 to 0.9 into blobs."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from docker_registry.cli.command import INCOMPLETE, Command, add_json, load_store_config
from docker_registry.cli.progress import ProgressBar

if TYPE_CHECKING:
    from docker_registry.registry.v1.migration import Report


def run(arguments: argparse.Namespace) -> int:
    """Convert the layers and print a report; may be interrupted, repeated, and run beside the server."""
    from docker_registry import services
    from docker_registry.registry.v1.migration import Migration

    bar = ProgressBar("images")
    with services.build(load_store_config(), v1=True) as built:
        report = Migration(built.registry.driver, built.require_legacy().images, dry_run=arguments.dry_run).run(
            bar.show
        )
    bar.end()
    if arguments.json:
        print(json.dumps({"dry_run": arguments.dry_run, **asdict(report)}, default=str))
        return INCOMPLETE if report.failed else 0
    for line in _lines(report, dry_run=arguments.dry_run):
        print(line)
    return INCOMPLETE if report.failed else 0


def _lines(report: Report, *, dry_run: bool) -> list[str]:
    verb = "would become" if dry_run else "became"
    lines = [
        f"{report.migrated} layers {verb} blobs ({report.migrated_bytes} bytes; {report.shared} were stored already)",
        f"{report.blobs} layers were blobs before",
        f"{len(report.unfinished)} images have to be pushed again: the push did not end, or the layer is damaged",
        *(f"  {image_id}" for image_id in report.unfinished),
        f"{len(report.without_layer)} images have no layer",
        *(f"  {image_id}" for image_id in report.without_layer),
    ]
    if report.failed:
        lines.append(f"{len(report.failed)} images could not be migrated; run this again")
        lines += [f"  {image_id}: {reason}" for image_id, reason in report.failed.items()]
    return lines


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only report what would be done")
    add_json(parser)


COMMAND: Final = Command(
    "migrate",
    "convert the layers of docker-registry 0.6 to 0.9 into blobs",
    run,
    _add_arguments,
    lambda chosen: not chosen.dry_run,
)
