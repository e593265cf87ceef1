"""Concurrent deletions and pushes over HTTP: the result is that of one order of the acknowledged requests."""

from __future__ import annotations

import http.client
import json
import random
import threading

import pytest

from tests.support.clients.v2 import OCI_MANIFEST, digest_of, encoded
from tests.support.servers.registry import Server

NAME = "a/b"
CONFIG = b"{}"


def manifest(**more):
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest_of(CONFIG), "size": len(CONFIG)}
    return encoded({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [], **more})


class Connection:
    """One client with a persistent connection."""

    def __init__(self, port):
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._connection.close()

    def send(self, method, path, body=None, content_type=OCI_MANIFEST):
        headers = {"Content-Type": content_type, "Accept": OCI_MANIFEST}
        self._connection.request(method, f"/v2/{NAME}/{path}", body=body, headers=headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def put(self, reference, payload):
        return self.send("PUT", f"manifests/{reference}", payload)[0]

    def get(self, reference):
        status, payload = self.send("GET", f"manifests/{reference}")
        return digest_of(payload) if status == 200 else None


def at_once(one, other):
    """Send two requests at about the same time, and return both responses."""
    answers, start = {}, threading.Barrier(2)

    def run(number, request):
        start.wait()
        threading.Event().wait(random.random() * 0.002)
        answers[number] = request()

    threads = [threading.Thread(target=run, args=each) for each in enumerate((one, other))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers[0], answers[1]


@pytest.fixture(params=[1, 2], ids=["one worker", "two workers"])
def server(request, tmp_path):
    with Server(tmp_path / "store", workers=request.param) as server:
        yield server


class TestDeletionsBesidePushes:
    @pytest.mark.parametrize("rounds", [8, pytest.param(334, marks=pytest.mark.slow)])
    def test_lose_nothing_acknowledged(self, server, rounds):
        with Connection(server.port) as pushing, Connection(server.port) as deleting:
            self.push_and_delete(pushing, deleting, rounds)

    def push_and_delete(self, pushing, deleting, rounds):
        assert 201 == pushing.send("POST", f"blobs/uploads/?digest={digest_of(CONFIG)}", CONFIG)[0]
        subject = manifest()
        assert 201 == pushing.put("subject", subject)
        self.subject = {"mediaType": OCI_MANIFEST, "digest": digest_of(subject), "size": len(subject)}
        for number in range(rounds):  # each deletes three manifests
            self.replace_a_tag(pushing, deleting, number)
            self.push_the_same(pushing, deleting, number)
            self.push_a_referrer(pushing, deleting, number)
        for tag in json.loads(pushing.send("GET", "tags/list")[1])["tags"]:
            assert pushing.get(tag), tag

    def replace_a_tag(self, pushing, deleting, number):
        old, new = (manifest(annotations={"number": f"{number} {which}"}) for which in ("old", "new"))
        assert 201 == pushing.put("latest", old)
        assert (201, 202) == at_once(
            lambda: pushing.put("latest", new),
            lambda: deleting.send("DELETE", f"manifests/{digest_of(old)}")[0],
        )
        assert (digest_of(new), None) == (pushing.get("latest"), pushing.get(digest_of(old)))

    def push_the_same(self, pushing, deleting, number):
        payload = manifest(annotations={"number": str(number)})
        digest = digest_of(payload)
        assert 201 == pushing.put(f"same-{number}", payload)
        assert (201, 202) == at_once(
            lambda: pushing.put(f"same-{number}", payload),
            lambda: deleting.send("DELETE", f"manifests/{digest}")[0],
        )
        assert pushing.get(f"same-{number}") == pushing.get(digest)

    def push_a_referrer(self, pushing, deleting, number):
        payload = manifest(annotations={"number": str(number)}, subject=self.subject)
        digest = digest_of(payload)
        assert 201 == pushing.put(digest, payload)
        assert (201, 202) == at_once(
            lambda: pushing.put(digest, payload),
            lambda: deleting.send("DELETE", f"manifests/{digest}")[0],
        )
        listed = [
            each["digest"]
            for each in json.loads(pushing.send("GET", f"referrers/{self.subject['digest']}")[1])["manifests"]
        ]
        assert (digest in listed) == (pushing.get(digest) is not None)
