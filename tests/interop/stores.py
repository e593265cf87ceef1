"""Tests with real clients that apply to every store; the modules of the stores inherit them."""

from __future__ import annotations

import requests

from tests.support.clients.v2 import Client
from tests.support.images import make_image, pull, read_layout

TO = "--dest-tls-verify=false"
FROM = "--src-tls-verify=false"


class StoreSuite:
    """For a fixture ``server``: a registry on the store."""

    def test_stores_and_serves_an_image_byte_for_byte(self, skopeo, layouts, host, name, reader, tmp_path):
        image = make_image(name, layers=3)
        skopeo("copy", TO, f"oci:{layouts(image)}:v1", f"docker://{host}/{name}:v1")
        assert image.contents == pull(reader, name, "v1")
        skopeo("copy", FROM, f"docker://{host}/{name}:v1", f"oci:{tmp_path}/pulled:v1")
        assert image.contents == read_layout(tmp_path / "pulled")

    def test_copies_between_repositories(self, skopeo, layouts, host, name, index, reader):
        skopeo("copy", "--all", TO, f"oci:{layouts(index)}:v1", f"docker://{host}/{name}:v1")
        skopeo("copy", "--all", FROM, TO, f"docker://{host}/{name}:v1", f"docker://{host}/{name}/copy:v1")
        assert index.contents == pull(reader, f"{name}/copy", "v1")

    def test_accepts_a_layer_of_many_parts(self, server, name):
        content = bytes(range(256)) * 4096 * 40  # 40 MiB
        with Client(server.url) as client:
            digest = client.push_blob(name, content)
            assert content == client.get_blob(name, digest)


class RedirectSuite:
    """For a fixture ``redirecting``: a registry that redirects clients to the store."""

    def test_redirects_skopeo_to_the_store(self, skopeo, layouts, redirecting, name, tmp_path):
        image, place = make_image(name, layers=2), f"127.0.0.1:{redirecting.port}/{name}:v1"
        skopeo("copy", TO, f"oci:{layouts(image)}:v1", f"docker://{place}")
        skopeo("copy", FROM, f"docker://{place}", f"oci:{tmp_path}/pulled:v1")
        assert image.contents == read_layout(tmp_path / "pulled")

    def test_is_a_signed_url_of_the_store(self, redirecting, name):
        content = bytes(range(256)) * 4096
        with Client(redirecting.url) as client:
            digest = client.push_blob(name, content)
        url = f"{redirecting.url}/v2/{name}/blobs/{digest}"
        answer = requests.get(url, allow_redirects=False, timeout=20)
        assert 307 == answer.status_code
        assert content == requests.get(answer.headers["Location"], timeout=20).content
