"""``docker-registry mirror``: the state of mirrored registries, and their content in the store."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from docker_registry.cli.command import INCOMPLETE, Command, changes_by, load_store_config
from docker_registry.errors import ConfigError, NameInvalid, RegistryError

if TYPE_CHECKING:
    from docker_registry.registry.mirror.mirror import Mirror
    from docker_registry.registry.mirror.platforms import Platform
    from docker_registry.registry.mirror.purging import Purged
    from docker_registry.registry.names import ImageRepositoryName, Reference, RepositoryName
    from docker_registry.services import Services

#: How long the refusal of a request is shown, until the last request.
_REFUSAL_SECONDS: Final = 3600.0

#: Longest list of images.
MAX_LIST_BYTES: Final = 4 * 1024 * 1024


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen action."""
    with _opened() as (built, mirror):
        return int(arguments.run_action(arguments, built, mirror))


def _status(arguments: argparse.Namespace, built: Services, mirror: Mirror) -> int:  # noqa: ARG001
    """Print what the workers of all hosts have published in the last minute."""
    urls = {each.name: each.url for each in mirror.upstreams}
    states = mirror.status()
    rows = [
        {"name": name, "url": urls[name], **asdict(state), "saved_bytes": state.saved_bytes}
        for name, state in states.items()
    ]
    _print(arguments, {"upstreams": rows}, map(_status_line, rows))
    return 0


def _check(arguments: argparse.Namespace, built: Services, mirror: Mirror) -> int:
    """Ask each upstream whether it accepts requests."""
    rows = [
        {"name": each.name, "url": each.url, "error": _failure(built, mirror, each.name)} for each in mirror.upstreams
    ]
    lines = (f"{row['name']}  {row['url']}  {row['error'] or 'ok'}" for row in rows)
    _print(arguments, {"upstreams": rows}, lines)
    return INCOMPLETE if any(row["error"] for row in rows) else 0


def _failure(built: Services, mirror: Mirror, upstream: str) -> str | None:
    """Return why an upstream cannot be mirrored; None if it can."""
    from docker_registry.registry.mirror.responses import cause_of

    source = built.v1_mirror
    try:
        if source is not None and source.upstream == upstream:
            source.check()
        else:
            mirror.check(upstream)
    except RegistryError as error:
        cause = cause_of(error) if error.__cause__ is not None else error.sentence
        return str(error) if cause == error.sentence else f"{error.sentence} ({cause})"
    return None


def _warm(arguments: argparse.Namespace, built: Services, mirror: Mirror) -> int:
    """Fetch images; those that are here are only compared with the tags of the upstream."""
    from docker_registry.registry.mirror.platforms import parse_platforms
    from docker_registry.registry.mirror.warming import Warming

    _check_writable(built)
    warming, rows = Warming(built.registry), []
    platforms = parse_platforms("--platform:", arguments.platform or ())
    for text in list(_images(arguments.images)):  # read all lists before anything changes
        row: dict[str, Any] = {"image": text, "digest": None, "manifests": 0, "blobs": 0, "bytes": 0, "error": None}
        try:
            name, reference = _parse(text, mirror)
            warmed = warming.warm(name, reference, platforms or _platforms(mirror, name))
            row |= {"digest": str(warmed.digest), "manifests": len(warmed.manifests)}
            row |= {"blobs": len(warmed.blobs), "bytes": warmed.size}
        except RegistryError as error:
            row["error"] = str(error)
        rows.append(row)
        if not arguments.json:
            print(_warmed_line(row), flush=True)
    if arguments.json:
        print(json.dumps({"images": rows}))
    return INCOMPLETE if any(row["error"] for row in rows) else 0


def _purge(arguments: argparse.Namespace, built: Services, mirror: Mirror) -> int:
    """Remove mirrored content: of some repositories, or of all of some upstreams."""
    from docker_registry.errors import NameUnknown

    _check_writable(built)
    known = sorted(mirror.names().union(_image_repositories(built)))
    chosen = [name for name in known if any(name == each or name.startswith(f"{each}/") for each in arguments.names)]
    for text in arguments.names:
        if not any(name == text or name.startswith(f"{text}/") for name in known):
            raise NameUnknown("No mirrored repository has this name.", name=text)
    purged = _purge_repositories(built, mirror, chosen)
    rows = [
        {
            "repository": name,
            "removed": sum(len(each.digests) for each in purged[name]),
            "bytes": sum(each.size for each in purged[name]),
        }
        for name in chosen
    ]
    lines = (f"{row['repository']}  {row['removed']} manifests, blobs and images, {row['bytes']} bytes" for row in rows)
    _print(arguments, {"repositories": rows}, lines)
    return 0


# ------------------------------------------------------------------------------------------------------ steps


def _check_writable(built: Services) -> None:
    """
    Check that the registry may change.

    Raises:
        ConfigError: it is read-only.
    """
    if built.read_only.is_on:
        raise ConfigError("The registry is read-only.", why=built.read_only.why)


def _image_repositories(built: Services) -> dict[str, ImageRepositoryName]:
    """Return the repositories of which images are mirrored by API V1, by their names with that of the upstream."""
    source = built.v1_mirror
    return {} if source is None else {f"{source.upstream}/{name}": name for name in source.stored_images.repositories()}


def _purge_repositories(built: Services, mirror: Mirror, names: Sequence[str]) -> Mapping[str, Sequence[Purged]]:
    """Purge repositories; return what was removed from each by the API by which it is mirrored."""
    from docker_registry.registry.actor import COMMAND_LINE
    from docker_registry.registry.mirror.purging import Purging
    from docker_registry.registry.names import RepositoryName

    mirrored, images = mirror.names(), _image_repositories(built)
    purged: dict[str, list[Purged]] = {name: [] for name in names}
    chosen = [RepositoryName(name) for name in names if name in mirrored]
    for name, found in Purging(built.registry).purge(chosen, actor=COMMAND_LINE).items():
        purged[str(name)].append(found)
    if built.v1_mirror is not None:
        stored, chosen_images = built.v1_mirror.stored_images, {images[name]: name for name in names if name in images}
        for image_name, found in stored.purge(chosen_images, actor=COMMAND_LINE).items():
            purged[chosen_images[image_name]].append(found)
    return purged


def _platforms(mirror: Mirror, name: RepositoryName) -> tuple[Platform, ...]:
    """Return the platforms of the upstream that a repository mirrors; none for all."""
    found = mirror.upstreams.find(str(name))
    return () if found is None else found[0].platforms


@contextmanager
def _opened() -> Iterator[tuple[Services, Mirror]]:
    """
    Open a registry that mirrors something.

    Raises:
        ConfigError: it mirrors nothing.
    """
    from docker_registry import services

    with services.build(load_store_config()) as built:
        if built.mirror is None:
            raise ConfigError("This registry mirrors nothing (mirroring.upstreams).")
        built.read_only.refresh()
        yield built, built.mirror


def _images(arguments: Sequence[str]) -> Iterator[str]:
    """
    Yield the images that are named on the command line, and in the lists that it names.

    Raises:
        ConfigError: a list is too long, or cannot be read.
    """
    for text in arguments:
        path = Path(text)
        if not _is_file(path):
            yield text
            continue
        try:
            with path.open("rb") as file:
                content = file.read(MAX_LIST_BYTES + 1)
        except OSError as error:
            raise ConfigError(f"The list of images {text} cannot be read: {error.strerror}") from None
        if len(content) > MAX_LIST_BYTES:
            raise ConfigError("The list of images is too long.", path=text, max_bytes=MAX_LIST_BYTES)
        lines = content.decode("utf-8", "replace").splitlines()
        yield from (line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # longer than the name of a file can be
        return False


def _parse(text: str, mirror: Mirror) -> tuple[RepositoryName, Reference]:
    """
    Parse ``UPSTREAM/REPOSITORY:TAG`` or ``UPSTREAM/REPOSITORY@DIGEST``; without either, the tag is ``latest``.

    Raises:
        NameInvalid, TagInvalid, DigestInvalid: it is none of these, or names no upstream.
    """
    from docker_registry.registry.names import Digest, RepositoryName, Tag

    name, at, digest = text.partition("@")
    before, colon, tag = name.rpartition(":")
    if colon and "/" not in tag:
        name = before
    else:
        tag = "latest"
    if not mirror.upstreams.is_mirrored(name):
        names = ", ".join(each.name for each in mirror.upstreams)
        raise NameInvalid(
            f"This is not a file, and the name of an image must begin with that of an upstream: {names}.", name=text
        )
    return RepositoryName.parse(name), Digest.parse(digest) if at else Tag.parse(tag)


def _print(arguments: argparse.Namespace, document: object, lines: Iterator[str]) -> None:
    if arguments.json:
        print(json.dumps(document))
    else:
        print("".join(f"{line}\n" for line in lines), end="")


def _status_line(row: dict[str, Any]) -> str:
    if row["is_reachable"] is None:
        state = "not asked yet"
    else:
        state = f"{'reachable' if row['is_reachable'] else 'not reachable'} since {_time(row['since'])}"
    parts = [row["name"], row["url"], state]
    if not row["is_reachable"] and row["reason"]:
        parts.append(row["reason"])
    if row["refusal"] and row["asked"] - row["refused"] < _REFUSAL_SECONDS:
        parts.append(f"refused a request at {_time(row['refused'])}: {row['refusal']}")
    if row["limit"] is not None:
        parts.append(f"{row['remaining']} of {row['limit']} pulls left")
    parts.append(f"{row['hits']} hits, {row['misses']} misses, {row['saved_bytes']} bytes saved")
    return "  ".join(parts)


def _warmed_line(row: dict[str, Any]) -> str:
    if row["error"]:
        return f"{row['image']}  {row['error']}"
    return f"{row['image']}  {row['digest']}  {row['manifests']} manifests, {row['blobs']} blobs, {row['bytes']} bytes"


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    status = actions.add_parser("status", help="show whether upstreams are reachable, pulls left, hits, saved bytes")
    check = actions.add_parser("check", help="ask each upstream whether it accepts requests")
    warm = actions.add_parser("warm", help="fetch images before clients request them")
    warm.add_argument(
        "images", nargs="+", metavar="IMAGE|LIST", help="UPSTREAM/REPOSITORY:TAG or …@DIGEST, or a file with one a line"
    )
    warm.add_argument(
        "--platform", action="append", metavar="OS/ARCH", help="only this platform of an index; may be repeated"
    )
    purge = actions.add_parser("purge", help="remove what was fetched, so that it is fetched again when requested")
    purge.add_argument(
        "names", nargs="+", metavar="NAME", help="an upstream, a repository, or the beginning of several"
    )
    runs: dict[argparse.ArgumentParser, Callable[..., int]] = {
        status: _status,
        check: _check,
        warm: _warm,
        purge: _purge,
    }
    for action, run_action in runs.items():
        action.add_argument("--json", action="store_true", help="print one JSON document")
        action.set_defaults(run_action=run_action)


COMMAND: Final = Command(
    "mirror",
    "show, check, fill and purge the mirror of other registries",
    run,
    _add_arguments,
    changes_by("warm", "purge"),
)
