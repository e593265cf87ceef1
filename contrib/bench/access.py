"""Rows of access control: the cost of users, rules and tokens."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPResponse
from pathlib import Path

import requests
from bench import Bench
from listings import ENTRIES, copies
from rows import Row, Sides
from small_requests import ACCEPT, CONNECTIONS, REPOSITORY, fill, wrk
from transfers import timed

from docker_registry.auth.client import Client as AuthClient
from docker_registry.auth.rules.policy import RulesPolicy
from docker_registry.auth.rules.rules import parse
from docker_registry.registry import layout
from docker_registry.registry.access import Action, OpenPolicy
from docker_registry.registry.names import Digest, RepositoryName
from tests.support.access import settings
from tests.support.clients.v2 import Client
from tests.support.images import make_image, push

TOKENS = 200
RULES = 1000
USERS = 10_000
DECISIONS = 20_000
PAGE = 100

_ALL = """rules:
  - {repositories: ["**"], who: [authenticated], allow: [pull, push, overwrite, delete]}"""
_FEW = """rules:
  - {repositories: ["bench/few*"], who: [reader], allow: [pull]}
  - {repositories: ["**"], who: [root], allow: [pull, push, overwrite, delete]}"""


@contextmanager
def manifests_by_tokens(bench: Bench) -> Iterator[Sides]:
    """One manifest by its tag, with one of 200 tokens each; and without access control."""
    restricted = bench.stack.enter_context(
        bench.server("restricted", **settings(bench.folder / "access", _ALL, ("root",)))
    )
    image = fill(bench.ours.url, 1)
    with Client(restricted.url) as root:
        root.session.auth = ("root", "pw-root")
        push(root, REPOSITORY, "t0", image)
    scope = {"scope": f"repository:{REPOSITORY}:pull"}
    tokens = [
        requests.get(f"{restricted.url}/v2/token", params=scope, auth=("root", "pw-root"), timeout=30).json()["token"]
        for _ in range(TOKENS)
    ]
    with_tokens = [_request(restricted.url, f"Authorization: Bearer {token}\r\n") for token in tokens]
    _warm_up(restricted.url, with_tokens)
    without = [_request(bench.ours.url, "")]
    yield (
        partial(wrk, bench, restricted.url, _script(with_tokens)),
        partial(wrk, bench, bench.ours.url, _script(without)),
    )


def _request(url: str, header: str) -> str:
    """Return a request as it is sent; wrk would write its headers in an order of each thread."""
    host = url.partition("://")[2]
    return f"GET /v2/{REPOSITORY}/manifests/t0 HTTP/1.1\r\nHost: {host}\r\nAccept: {ACCEPT}\r\n{header}\r\n"


def _script(texts: list[str]) -> str:
    """Return a script of wrk that sends any of these requests."""
    listed = ", ".join(json.dumps(text) for text in texts)
    return f"local texts = {{{listed}}}\nrequest = function() return texts[math.random(1, #texts)] end"


def _warm_up(url: str, texts: list[str]) -> None:
    """Send each token on many connections, so that every worker has verified it before the measurement."""
    host, _, port = url.partition("://")[2].partition(":")
    for _ in range(CONNECTIONS):
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            for text in texts:
                connection.sendall(text.encode())
                answer = HTTPResponse(connection)
                answer.begin()
                answer.read()
                assert answer.status == 200


@contextmanager
def decisions(bench: Bench) -> Iterator[Sides]:
    """Decisions about pulls by 10,000 users under 1000 rules; and under three."""

    def policy(count: int) -> RulesPolicy:
        groups = ", ".join(
            f"g{number}: [{', '.join(f'u{user}' for user in range(number, USERS, 100))}]" for number in range(100)
        )
        lines = [f"groups: {{{groups}}}", "rules:"]
        for number in range(count):
            who = f'"@g{number % 100}"' if number % 2 else f"u{number}"
            lines.append(f'  - {{repositories: ["team{number}/**", "shared/*-{number}"], who: [{who}], allow: [pull]}}')
        rules = parse("\n".join(lines).encode(), Path("rules.yml"))
        return RulesPolicy(lambda: rules, OpenPolicy())

    def measure(found: RulesPolicy) -> float:
        clients = [AuthClient(f"u{number}") for number in range(0, USERS, 7)]
        names = [RepositoryName.parse(f"team{number}/web") for number in range(5000)]
        count = max(1000, int(DECISIONS * bench.scale))

        def decide() -> None:
            for number in range(count):
                client = clients[number % len(clients)]
                found.allows(client, Action.PULL, names[number * 7 % len(names)])

        return timed(decide) / count * 1e6

    yield partial(measure, policy(RULES)), partial(measure, policy(3))


@contextmanager
def restricted_catalog(bench: Bench) -> Iterator[Sides]:
    """A page of the catalog for a user who may see 10 repositories of many; and for one who may see all."""
    count = max(1000, int(ENTRIES * bench.scale))
    server = bench.stack.enter_context(
        bench.server("catalog", **settings(bench.folder / "few", _FEW, ("root", "reader")))
    )
    clients = []
    for user in ("reader", "root"):
        client = bench.stack.enter_context(Client(server.url))
        client.session.auth = (user, f"pw-{user}")
        clients.append(client)
    image = make_image("bench")
    push(clients[1], "bench/r", "t", image)
    clients[1].request("GET", "/v2/_catalog", 200)  # the catalog is complete from now on
    many = [RepositoryName.parse(f"bench/r{number:06}") for number in range(count)]
    few = [RepositoryName.parse(f"bench/few{number}") for number in range(10)]
    first = RepositoryName.parse("bench/r")
    link = partial(layout.revision_link, digest=Digest.of(image.manifest))
    copies(server.store, link(first), map(link, (*many[: 2 * PAGE], *few)))  # the content of others is not looked up
    copies(server.store, layout.catalog_entry(first), map(layout.catalog_entry, (*many, *few)))
    yield _pages(clients[0]), _pages(clients[1])


def _pages(client: Client):  # type: ignore[no-untyped-def] # what a row measures
    for _ in range(20):  # every worker reads a long list once
        client.request("GET", f"/v2/_catalog?n={PAGE}", 200)

    return lambda: min(timed(partial(client.request, "GET", f"/v2/_catalog?n={PAGE}", 200)) for _ in range(5))


ROWS = [
    Row(
        "tokens",
        f"GET manifest by tag, {TOKENS} tokens",
        "without access control",
        "GET/s",
        manifests_by_tokens,
        bound=0.8,
    ),
    Row("decision", f"decision of {RULES} rules and {USERS} users", "of 3 rules", "us", decisions, limit=50),
    Row("catalog-few", f"catalog of 10 among {ENTRIES} repositories", "of all", "s", restricted_catalog, limit=0.05),
]
