"""Rows of long lists: their first page, compared with that of a list a tenth as long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench import Bench
from rows import Row, Sides
from transfers import timed

from docker_registry.registry import layout
from docker_registry.registry.names import Digest, RepositoryName, Tag
from tests.support.clients.v2 import Client
from tests.support.images import make_image, push

ENTRIES = 100_000


def copies(store: Path, source: str, paths: Iterator[str]) -> None:
    """Write files as the server would, without a hundred thousand requests."""
    content = (store / source).read_bytes()
    for path in paths:
        file = store / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


@contextmanager
def tags(bench: Bench) -> Iterator[Sides]:
    """The first hundred tags of a repository."""
    image, count = make_image("bench"), max(1000, int(ENTRIES * bench.scale))
    with Client(bench.ours.url) as client:
        for name, entries in (("bench/many", count), ("bench/few", count // 10)):
            push(client, name, "t", image)
            repository = RepositoryName.parse(name)
            numbered = (Tag(f"t{number:06}") for number in range(entries))
            link = layout.tag_link(repository, Tag("t"))
            copies(bench.ours.store, link, (layout.tag_link(repository, tag) for tag in numbered))
        yield _pages(client, "/v2/bench/many/tags/list?n=100"), _pages(client, "/v2/bench/few/tags/list?n=100")


@contextmanager
def repositories(bench: Bench) -> Iterator[Sides]:
    """The first hundred repositories, of many; and of a tenth as many, on another server."""
    count = max(1000, int(ENTRIES * bench.scale))
    few = bench.stack.enter_context(bench.server("few"))
    clients = []
    for server, entries in ((bench.ours, count), (few, count // 10)):
        client = bench.stack.enter_context(Client(server.url))
        push(client, "bench/r", "t", make_image("bench"))
        digest = Digest.of(make_image("bench").manifest)
        names = [RepositoryName.parse(f"bench/r{number:06}") for number in range(entries)]
        first = layout.revision_link(RepositoryName.parse("bench/r"), digest)
        copies(server.store, first, (layout.revision_link(name, digest) for name in names))
        copies(server.store, layout.catalog_entry(RepositoryName.parse("bench/r")), map(layout.catalog_entry, names))
        clients.append(client)
    yield _pages(clients[0], "/v2/_catalog?n=100"), _pages(clients[1], "/v2/_catalog?n=100")


def _pages(client: Client, path: str):  # type: ignore[no-untyped-def] # what a row measures
    for _ in range(20):  # every worker reads a long list once
        client.request("GET", path, 200)

    def measure() -> float:
        return min(timed(partial(client.request, "GET", path, 200)) for _ in range(5))

    return measure


ROWS = [
    Row("tags-page", f"first page of {ENTRIES} tags", "of a tenth", "s", tags, bound=1.3, limit=0.02),
    Row(
        "catalog-page", f"first page of {ENTRIES} repositories", "of a tenth", "s", repositories, bound=1.3, limit=0.02
    ),
]
