"""
A server that is killed during pushes of API V1 keeps every acknowledged image, and serves no incomplete one.

``CRASH_SEED=…`` repeats the images and the moments of a run, but not the instruction at which the signal arrives.
"""

from __future__ import annotations

import random
import time

import pytest

from tests.crash.old_pushers import TAG, OldPusher, make_chain
from tests.crash.test_sigkill import check_blobs_of_store, let_live
from tests.support.clients.v1 import Docker, done
from tests.support.clients.v2 import Client
from tests.support.images import pull
from tests.support.servers.registry import Server

PUSHERS = 4


def check_image(docker, image):
    """An image is complete."""
    assert image.payload == done(docker.get(f"/images/{image.text}/json"), 200).content
    assert image.layer == done(docker.get(f"/images/{image.text}/layer"), 200).content


def check_unfinished(docker, image):
    """An image that was not acknowledged is complete, or not served."""
    answer = docker.get(f"/images/{image.text}/layer")
    if answer.status_code == 200:
        check_image(docker, image)
    else:
        assert answer.status_code in (400, 404)


def check_life(docker, client, pusher):
    """Check what one client was acknowledged, repeat its last push, and return the target of the tag."""
    promises = pusher.promises
    for image in promises.images.values():
        check_image(docker, image)
    for image in promises.chain:
        if image.text not in promises.images:
            check_unfinished(docker, image)
    tags = docker.get(f"/repositories/{pusher.name}/tags")
    tagged = tags.json().get(TAG) if tags.status_code == 200 else None
    assert tagged in (promises.tagged, promises.tagging)
    assert tagged is not None or promises.tagged is None
    if not promises.chain:
        return tagged
    docker.push(pusher.name, TAG, *promises.chain)
    assert [image.layer for image in promises.chain] == [layer for _, _, layer in docker.pull(pusher.name, TAG)]
    pull(client, pusher.name, TAG)  # the same by API V2, verified
    return promises.chain[-1].text


class TestAKilledServer:
    @pytest.mark.parametrize("rounds", [3, pytest.param(200, marks=pytest.mark.slow)])
    def test_keeps_acknowledged_content_and_serves_nothing_unverified(self, tmp_path, rounds, seed):
        moments = random.Random(seed)
        server = Server(tmp_path / "store", workers=2)
        tagged = dict.fromkeys(f"crash/old{number}" for number in range(PUSHERS))
        promised = 0
        server.start()
        try:
            for number in range(rounds):
                born = time.time()
                pushers = [OldPusher(server.url, name, f"{seed} {number}", tagged[name]) for name in tagged]
                for pusher in pushers:
                    pusher.start()
                let_live(moments, lambda pushers=pushers: sum(len(pusher.promises.images) for pusher in pushers))
                server.kill()
                for pusher in pushers:
                    pusher.join()
                server.start()
                with Docker(server.url) as docker, Client(server.url) as client:
                    for pusher in pushers:
                        assert pusher.failure is None, f"CRASH_SEED={seed}, round {number}: {pusher.failure!r}"
                        promised += len(pusher.promises.images)
                        tagged[pusher.name] = check_life(docker, client, pusher)
                check_blobs_of_store(server.store, since=born - 1)
            check_blobs_of_store(server.store)
        finally:
            server.stop()
        print(f"{rounds} crashes, {promised} images kept")
        assert promised > rounds

    def test_receives_the_same_images_in_every_run(self):
        assert make_chain("seed", 1) == make_chain("seed", 1)
