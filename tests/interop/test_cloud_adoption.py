"""
Stores of Google, Azure and OpenStack written by other servers are served unchanged.

The files are those that distribution wrote on a disk and docker-registry 0.7 and 0.9 left behind; they are put into the
store as the drivers of these servers do: Azure's blobs are appended to, Swift's large objects consist of segments.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("google.cloud.storage", reason="google-cloud-storage is not installed")
pytest.importorskip("azure.storage.blob", reason="azure-storage-blob is not installed")
pytest.importorskip("swiftclient", reason="python-swiftclient is not installed")

from tests.support import v1_trees
from tests.support.clients.v1 import Docker
from tests.support.clients.v2 import Client
from tests.support.images import make_image, make_index, pull, push
from tests.support.servers.azurite import KEY, NAME, run_azurite
from tests.support.servers.gcs import make_service_account, run_gcs
from tests.support.servers.registry import Server

IMAGE, INDEX, NEW = make_image("image of a cloud"), make_index("index of a cloud"), make_image("new in a cloud")
SEGMENT_BYTES = 100_000


class Google:
    """A new bucket of Google."""

    root_of_distribution, root_of_old = "/", "/registry"

    def __init__(self, server, account):
        self._server, self._bucket = server, server.make_bucket()
        self.environment = {
            "SETTINGS_FLAVOR": "gcs",
            "STORAGE_EMULATOR_HOST": server.endpoint,
            "GCS_BUCKET": self._bucket,
            "GCS_CREDENTIALS_FILE": str(account),
        }

    def put(self, name, content):
        self._server.put(self._bucket, name, content)


class Azure:
    """A new container of Azure."""

    root_of_distribution = ""

    def __init__(self, server):
        self._client = server.connect().get_container_client(server.make_container())
        self.environment = {
            "SETTINGS_FLAVOR": "azureblob",
            "AZURE_STORAGE_ACCOUNT_NAME": NAME,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_CONTAINER": self._client.container_name,
            "AZURE_STORAGE_BLOB_ENDPOINT": server.endpoint,
            "AZURE_USE_HTTPS": "false",
        }

    def put(self, name, content):
        blob = self._client.get_blob_client(name)
        if name.endswith("/data"):  # content of an upload
            blob.create_append_blob()
            for start in range(0, len(content), SEGMENT_BYTES):
                blob.append_block(content[start : start + SEGMENT_BYTES])
        else:
            blob.upload_blob(content)


class Swift:
    """A new container of Swift."""

    root_of_distribution, root_of_old = "files", "/registry"

    def __init__(self, server):
        options = server.options
        self._container, self._connection = options["swift_container"], server.connect()
        self._connection.put_container(self._container)
        self.environment = {
            "SETTINGS_FLAVOR": "swift",
            "OS_AUTH_URL": options["swift_authurl"],
            "OS_CONTAINER": self._container,
            "OS_USERNAME": options["swift_user"],
            "OS_PASSWORD": options["swift_password"],
        }
        self._segments = 0

    def put(self, name, content):
        if not name.endswith("/data"):
            self._connection.put_object(self._container, name, content)
            return
        self._segments += 1
        folder = f"segments/{self._segments:03}"
        for start in range(0, len(content), SEGMENT_BYTES):
            part = content[start : start + SEGMENT_BYTES]
            self._connection.put_object(self._container, f"{folder}/{start:016}", part)
        manifest = {"X-Object-Manifest": f"{self._container}/{folder}"}
        self._connection.put_object(self._container, name, b"", headers=manifest)


@pytest.fixture(scope="module")
def account(tmp_path_factory):
    return make_service_account(tmp_path_factory.mktemp("account"))


@pytest.fixture(scope="module")
def gcs():
    with run_gcs() as server:
        yield server


@pytest.fixture(scope="module")
def azurite():
    with run_azurite() as server:
        yield server


def new_place(request):
    """A new, empty store of the requested kind."""
    if request.param == "gcs":
        return Google(request.getfixturevalue("gcs"), request.getfixturevalue("account"))
    if request.param == "azureblob":
        return Azure(request.getfixturevalue("azurite"))
    return Swift(request.getfixturevalue("swift_server"))


@pytest.fixture(scope="module")
def tree(distribution, skopeo, layouts, tmp_path_factory):
    """A folder that distribution has filled through a real client."""
    store = tmp_path_factory.mktemp("adoption") / "store"
    with distribution(store) as old:
        for image, name in ((IMAGE, "adopted"), (INDEX, "adopted/deep/er")):
            target = f"docker://127.0.0.1:{old.port}/{name}:v1"
            skopeo("copy", "--all", "--dest-tls-verify=false", f"oci:{layouts(image)}:v1", target)
    return store


def fill(place, folder, root):
    """Put all files of a folder into the store."""
    for path in Path(folder).rglob("*"):
        if path.is_file():
            place.put(f"{root}/{path.relative_to(folder)}".strip("/"), path.read_bytes())


class TestAStoreOfDistribution:
    @pytest.fixture(params=["gcs", "azureblob", "swift"])
    def place(self, request):
        return new_place(request)

    def test_is_served_and_continued(self, place, tree, tmp_path):
        fill(place, tree, place.root_of_distribution)
        environment = {**place.environment, "STORAGE_PATH": place.root_of_distribution}
        with Server(tmp_path / "store", **environment) as server, Client(server.url) as client:
            assert IMAGE.contents == pull(client, "adopted", "v1")
            assert INDEX.contents == pull(client, "adopted/deep/er", "v1")
            assert ["v1"] == client.request("GET", "/v2/adopted/tags/list", 200).json()["tags"]
            assert ["adopted", "adopted/deep/er"] == client.request("GET", "/v2/_catalog", 200).json()["repositories"]
            push(client, "adopted", "v2", NEW)
            push(client, "elsewhere", "v1", IMAGE)  # all its blobs exist already
            assert (NEW.contents, IMAGE.contents) == (pull(client, "adopted", "v2"), pull(client, "elsewhere", "v1"))


class TestAStoreOf07:
    """Without Azure, which docker-registry 0.7 to 0.9 did not support."""

    @pytest.fixture(params=["gcs", "swift"])
    def place(self, request):
        return new_place(request)

    @pytest.mark.parametrize("name", v1_trees.NAMES)
    def test_is_served(self, place, tmp_path, name):
        fill(place, v1_trees.FIXTURES / name, place.root_of_old)
        environment = {**place.environment, "STORAGE_PATH": place.root_of_old}
        wanted = {text: layer for text, layer in v1_trees.images(name).items() if text != v1_trees.UNFINISHED}
        with Server(tmp_path / "store", **environment) as server, Docker(server.url) as docker:
            for repository, tags in v1_trees.REPOSITORIES[name].items():
                assert tags <= set(docker.get(f"/repositories/{repository}/tags").json())
            assert wanted == {text: docker.get(f"/images/{text}/layer").content for text in wanted}
