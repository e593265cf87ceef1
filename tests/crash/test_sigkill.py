"""
A server that is killed at any moment keeps acknowledged content, and publishes nothing unverified.

``CRASH_SEED=…`` repeats the images, the ways of pushing and the moments of a run, but not the instruction at which the
signal arrives.
"""

from __future__ import annotations

import hashlib
import random
import time

import pytest

from tests.crash.pushers import TAG, Pusher
from tests.support.clients.v2 import Client, acknowledged, digest_of
from tests.support.images import pull, push
from tests.support.servers.registry import Server

PUSHERS = 4

#: The longest life of a server in a round, in acknowledged requests, and then in seconds.
MAX_PROMISES = 12
MAX_LIFE_SECONDS = 0.1


def let_live(moments, promised):
    """
    Return at a random moment.

    Args:
        promised: returns the number of acknowledged requests in this round.
    """
    wanted, end = moments.randint(2, MAX_PROMISES), time.monotonic() + 30
    while promised() < wanted and time.monotonic() < end:
        time.sleep(0.002)
    time.sleep(moments.uniform(0, MAX_LIFE_SECONDS))


def check_blobs_of_store(store, since=0.0):
    """Every blob has the digest in its path."""
    for path in store.glob("docker/registry/v2/blobs/*/*/*/*"):
        if path.stat().st_mtime >= since:
            algorithm, digest = path.parts[-4], path.parts[-2]
            assert ("data", digest) == (path.name, hashlib.new(algorithm, path.read_bytes()).hexdigest())


def check_manifests_of_store(store, client, since=0.0):
    """No manifest with a missing blob is served; pulled content is verified as everywhere."""
    for link in store.glob("docker/registry/v2/repositories/**/_manifests/revisions/*/*/link"):
        if link.stat().st_mtime >= since:
            name = link.relative_to(store / "docker/registry/v2/repositories").parents[4]
            pull(client, str(name), link.read_text())


def check_promises(client, name, promises):
    """Acknowledged content exists and is correct."""
    for digest, content in promises.blobs.items():
        assert content == client.get_blob(name, digest)
    for digest, payload in promises.manifests.items():
        assert payload == client.get_manifest(name, digest).payload
    if promises.tagged and not promises.tagging:
        assert promises.tagged == client.get_manifest(name, TAG).digest
    elif promises.tagging and client.has_manifest(name, TAG):
        assert client.get_manifest(name, TAG).digest in (promises.tagged, promises.tagging)
    elif promises.tagging:
        assert promises.tagged is None


def finish_upload(client, name, session):
    """An upload continues from its acknowledged bytes; if it was already committed, its PUT is acknowledged again."""
    digest = digest_of(session.content)
    answer = client.request("GET", session.location, 204, 404)
    if answer.status_code == 204:
        kept = acknowledged(answer)
        assert session.kept <= kept <= len(session.content)
        if kept < len(session.content):
            client.append(session.location, session.content[kept:], kept)
    else:
        assert client.has_blob(name, digest)
    client.commit(session.location, digest)
    assert session.content == client.get_blob(name, digest)


def check_life(client, pusher):
    """Check the acknowledgements of one client before a crash, finish its push, and return the target of the tag."""
    promises = pusher.promises
    check_promises(client, pusher.name, promises)
    if promises.session:
        finish_upload(client, pusher.name, promises.session)
    if promises.image:
        push(client, pusher.name, TAG, promises.image)
        assert promises.image.contents == pull(client, pusher.name, TAG)
        return promises.image.digest
    return promises.tagged


class TestAKilledServer:
    @pytest.mark.parametrize("rounds", [5, pytest.param(200, marks=pytest.mark.slow)])
    def test_keeps_acknowledged_content_and_publishes_nothing_unverified(self, tmp_path, rounds, seed):
        moments = random.Random(seed)
        server = Server(tmp_path / "store", workers=2)
        tagged = dict.fromkeys(f"crash/pusher{number}" for number in range(PUSHERS))
        promised = 0
        server.start()
        try:
            for number in range(rounds):
                born = time.time()
                pushers = [Pusher(server.url, name, f"{seed} {number}", tagged[name]) for name in tagged]
                for pusher in pushers:
                    pusher.start()
                let_live(moments, lambda pushers=pushers: sum(pusher.promises.count for pusher in pushers))
                server.kill()
                for pusher in pushers:
                    pusher.join()
                server.start()
                with Client(server.url) as client:
                    for pusher in pushers:
                        assert pusher.failure is None, f"CRASH_SEED={seed}, round {number}: {pusher.failure!r}"
                        promised += pusher.promises.count
                        tagged[pusher.name] = check_life(client, pusher)
                    check_blobs_of_store(server.store, since=born - 1)
                    check_manifests_of_store(server.store, client, since=born - 1)
            with Client(server.url) as client:
                check_blobs_of_store(server.store)
                check_manifests_of_store(server.store, client)
        finally:
            server.stop()
        print(f"{rounds} crashes, {promised} promises kept")
        assert promised > rounds
