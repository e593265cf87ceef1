"""
Random walks through API V2 over real HTTP, two workers, with an oracle in memory that knows what each answer must be.

Every walk has repositories of its own. CI walks a tenth; `pytest -m slow` tens of thousands of steps.
"""

from __future__ import annotations

import itertools
import json

import pytest
import requests
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.api.test_v2_blobs import digest_of
from tests.api.test_v2_manifests import OCI
from tests.support.servers.registry import Server

CONTENTS = st.sampled_from([b"", b"a", b"bc", b"layer" * 1000, bytes(70000)])
TAGS = st.sampled_from(["latest", "v1", "V1", "_", "z-9"])
REPOSITORIES = st.sampled_from([0, 1])

_walks = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("machine") / "store", workers=2) as server:
        yield server


class Machine(RuleBasedStateMachine):
    """
    One walk.

    The oracle: blobs that each repository can read, its manifests, its tags, and the bytes of each unfinished upload.
    """

    url = ""

    @initialize()
    def begin(self):
        walk = next(_walks)
        self.session = requests.Session()
        self.names = [f"walk{walk}/one", f"walk{walk}/two"]
        self.blobs = [{}, {}]
        self.manifests = [{}, {}]
        self.tags = [{}, {}]
        self.uploads = []
        self.begun = [False, False]

    def teardown(self):
        if hasattr(self, "session"):
            self.session.close()

    def request(self, method, repository, path, expected, **kwargs):
        answer = self.session.request(method, f"{self.url}/v2/{self.names[repository]}/{path}", timeout=30, **kwargs)
        assert expected == answer.status_code, (method, path, answer.status_code, answer.text[:500])
        return answer

    # ------------------------------------------------------------------------------------------------- blobs

    @rule(repository=REPOSITORIES, content=CONTENTS)
    def push_blob_at_once(self, repository, content):
        self.request("POST", repository, f"blobs/uploads/?digest={digest_of(content)}", 201, data=content)
        self.keep(repository, content)

    @rule(repository=REPOSITORIES, content=CONTENTS)
    def push_blob_that_is_another(self, repository, content):
        self.request("POST", repository, f"blobs/uploads/?digest={digest_of(b'x')}", 400, data=content)

    @rule(repository=REPOSITORIES, content=CONTENTS)
    def mount(self, repository, content):
        there = content in self.blobs[1 - repository]
        query = f"?mount={digest_of(content)}&from={self.names[1 - repository]}"
        self.request("POST", repository, f"blobs/uploads/{query}", 201 if there else 202)
        if there:
            self.keep(repository, content)

    @rule(repository=REPOSITORIES, content=CONTENTS)
    def pull_blob(self, repository, content):
        there = content in self.blobs[repository]
        answer = self.request("GET", repository, f"blobs/{digest_of(content)}", 200 if there else 404)
        assert not there or content == answer.content

    @rule(repository=REPOSITORIES, content=CONTENTS)
    def delete_blob(self, repository, content):
        there = self.blobs[repository].pop(content, None)
        self.request("DELETE", repository, f"blobs/{digest_of(content)}", 202 if there else 404)

    # ----------------------------------------------------------------------------------------------- uploads

    @rule(repository=REPOSITORIES)
    def start_upload(self, repository):
        answer = self.request("POST", repository, "blobs/uploads/", 202)
        self.uploads.append([repository, answer.headers["Docker-Upload-UUID"], b""])

    @rule(content=CONTENTS, which=st.integers(0, 9), ranged=st.booleans())
    def append(self, content, which, ranged):
        if not self.uploads:
            return
        upload = self.uploads[which % len(self.uploads)]
        headers = (
            {"Content-Range": f"{len(upload[2])}-{len(upload[2]) + len(content) - 1}"} if ranged and content else {}
        )
        answer = self.request("PATCH", upload[0], f"blobs/uploads/{upload[1]}", 202, data=content, headers=headers)
        upload[2] += content
        assert f"0-{max(len(upload[2]) - 1, 0)}" == answer.headers["Range"]

    @rule(which=st.integers(0, 9), off=st.sampled_from([-1, 1, 1000]))
    def append_out_of_order(self, which, off):
        if not self.uploads:
            return
        repository, upload_id, content = self.uploads[which % len(self.uploads)]
        start = len(content) + off
        if start < 0:
            return
        headers = {"Content-Range": f"{start}-{start}"}
        answer = self.request("PATCH", repository, f"blobs/uploads/{upload_id}", 416, data=b"x", headers=headers)
        assert f"0-{max(len(content) - 1, 0)}" == answer.headers["Range"]

    @rule(which=st.integers(0, 9), last=CONTENTS)
    def commit(self, which, last):
        if not self.uploads:
            return
        repository, upload_id, content = self.uploads.pop(which % len(self.uploads))
        path = f"blobs/uploads/{upload_id}?digest={digest_of(content + last)}"
        self.request("PUT", repository, path, 201, data=last)
        self.keep(repository, content + last)
        self.request("PUT", repository, path, 201)
        self.request("GET", repository, f"blobs/uploads/{upload_id}", 404)

    @rule(which=st.integers(0, 9))
    def commit_what_it_is_not(self, which):
        if not self.uploads:
            return
        repository, upload_id, _ = self.uploads.pop(which % len(self.uploads))
        self.request("PUT", repository, f"blobs/uploads/{upload_id}?digest={digest_of(b'never')}", 400)
        self.request("GET", repository, f"blobs/uploads/{upload_id}", 404)

    @rule(which=st.integers(0, 9))
    def cancel(self, which):
        if not self.uploads:
            return
        repository, upload_id, _ = self.uploads.pop(which % len(self.uploads))
        self.request("DELETE", repository, f"blobs/uploads/{upload_id}", 204)
        self.request("DELETE", repository, f"blobs/uploads/{upload_id}", 404)

    # --------------------------------------------------------------------------------------------- manifests

    @rule(repository=REPOSITORIES, config=CONTENTS, layer=CONTENTS, tag=st.none() | TAGS)
    def push_manifest(self, repository, config, layer, tag):
        payload = json.dumps(
            {
                "schemaVersion": 2,
                "config": {"mediaType": "application/x", "digest": digest_of(config), "size": len(config)},
                "layers": [{"mediaType": "application/y", "digest": digest_of(layer), "size": len(layer)}],
            }
        ).encode()
        good = config in self.blobs[repository] and layer in self.blobs[repository]
        path = f"manifests/{tag or digest_of(payload)}"
        self.request("PUT", repository, path, 201 if good else 404, data=payload, headers={"Content-Type": OCI})
        if good:
            self.begun[repository] = True
            self.manifests[repository][digest_of(payload)] = payload
            if tag:
                self.tags[repository][tag] = digest_of(payload)

    @rule(repository=REPOSITORIES, tag=TAGS)
    def pull_tag(self, repository, tag):
        digest = self.tags[repository].get(tag)
        answer = self.request("GET", repository, f"manifests/{tag}", 200 if digest else 404)
        assert digest is None or self.manifests[repository][digest] == answer.content

    @rule(repository=REPOSITORIES, tag=TAGS)
    def delete_tag(self, repository, tag):
        there = self.tags[repository].pop(tag, None)
        self.request("DELETE", repository, f"manifests/{tag}", 202 if there else 404)

    @rule(repository=REPOSITORIES, which=st.integers(0, 9))
    def delete_manifest(self, repository, which):
        digests = sorted(self.manifests[repository])
        if not digests:
            return
        digest = digests[which % len(digests)]
        del self.manifests[repository][digest]
        self.tags[repository] = {tag: other for tag, other in self.tags[repository].items() if other != digest}
        self.request("DELETE", repository, f"manifests/{digest}", 202)
        self.request("GET", repository, f"manifests/{digest}", 404)

    @invariant()
    def tags_are_listed(self):
        if not hasattr(self, "tags"):
            return
        for repository in (0, 1):
            if self.blobs[repository] or self.manifests[repository]:
                answer = self.request("GET", repository, "tags/list", 200)
                assert sorted(self.tags[repository]) == answer.json()["tags"]

    def keep(self, repository, content):
        self.blobs[repository][content] = True


def walk(server, examples, steps):
    Machine.url = server.url
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=checks, database=None
        ),
    )


class TestRandomWalks:
    def test_always_get_the_answer_that_the_oracle_knows(self, server):
        walk(server, 12, 40)

    @pytest.mark.slow
    def test_of_tens_of_thousands_of_steps(self, server):
        walk(server, 800, 50)
