"""Buckets written by other servers are served unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("boto3", reason="boto3 is not installed")

from tests.interop.test_s3 import environment
from tests.support import v1_trees
from tests.support.clients.programs import missing
from tests.support.clients.v1 import Docker
from tests.support.clients.v2 import Client
from tests.support.images import make_image, make_index, pull
from tests.support.processes import free_port, listens, running
from tests.support.servers.distribution import find_distribution
from tests.support.servers.registry import Server
from tests.support.servers.seaweedfs import BUCKET

IMAGE, INDEX = make_image("image of a bucket"), make_index("index of a bucket")


def upload(seaweedfs, folder, root):
    """Put all files of a folder into the bucket."""
    client = seaweedfs.connect()
    for path in Path(folder).rglob("*"):
        if path.is_file():
            client.put_object(Bucket=BUCKET, Key=f"{root}/{path.relative_to(folder)}", Body=path.read_bytes())
    client.close()


@pytest.fixture(scope="module")
def filled(seaweedfs, skopeo, layouts, tmp_path_factory):
    """The options of the driver for a root that distribution has filled through a real client."""
    program = find_distribution() or missing("distribution is not installed (Debian package docker-registry)")
    options, port, folder = seaweedfs.options(), free_port(), tmp_path_factory.mktemp("distribution")
    store = {
        "accesskey": options["s3_access_key"],
        "secretkey": options["s3_secret_key"],
        "region": "us-east-1",
        "regionendpoint": options["s3_endpoint"],
        "bucket": BUCKET,
        "rootdirectory": options["storage_path"],
        "secure": False,
    }
    config = {"version": 0.1, "storage": {"s3": store}, "http": {"addr": f"127.0.0.1:{port}"}}
    (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    command = [program, "serve", str(folder / "config.yml")]
    # With a bundle of certificates in the environment it does not start (its transport is none that its SDK knows).
    with running(command, folder / "log", lambda: listens(port), {"AWS_CA_BUNDLE": ""}):
        for image, name in ((IMAGE, "adopted"), (INDEX, "adopted/deep/er")):
            target = f"docker://127.0.0.1:{port}/{name}:v1"
            skopeo("copy", "--all", "--dest-tls-verify=false", f"oci:{layouts(image)}:v1", target)
    return options


class TestABucketOfDistribution:
    def test_is_served_and_continued(self, filled, tmp_path):
        with Server(tmp_path / "store", **environment(filled)) as server, Client(server.url) as client:
            assert IMAGE.contents == pull(client, "adopted", "v1")
            assert INDEX.contents == pull(client, "adopted/deep/er", "v1")
            assert ["v1"] == client.request("GET", "/v2/adopted/tags/list", 200).json()["tags"]
            digest = client.push_blob("adopted", b"more")
            assert b"more" == client.get_blob("adopted", digest)


class TestABucketOf07:
    @pytest.mark.parametrize("name", v1_trees.NAMES)
    def test_is_served(self, seaweedfs, tmp_path, name):
        options = seaweedfs.options()
        upload(seaweedfs, v1_trees.FIXTURES / name, options["storage_path"].strip("/"))
        with Server(tmp_path / "store", **environment(options)) as server, Docker(server.url) as docker:
            for repository, tags in v1_trees.REPOSITORIES[name].items():
                assert tags <= set(docker.get(f"/repositories/{repository}/tags").json())
            served = {text: docker.get(f"/images/{text}/layer").content for text in v1_trees.images(name)}
        wanted = v1_trees.images(name)
        unfinished = {v1_trees.UNFINISHED}
        assert {key: wanted[key] for key in wanted.keys() - unfinished} == {
            key: served[key] for key in served.keys() - unfinished
        }
