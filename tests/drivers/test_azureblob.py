"""The contract of drivers on a real Azurite server, and behavior specific to Azure."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import pytest
import requests

pytest.importorskip("azure.storage.blob", reason="azure-storage-blob is not installed")

from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas

from docker_registry.drivers.azureblob.driver import AzureBlobDriver
from docker_registry.drivers.testing import DriverSuite, conditions
from docker_registry.drivers.testing.races import race
from docker_registry.errors import ConfigError, StorageError, StorageUnavailable
from tests.drivers.object_stores import ForeignStoreSuite, LostResponseSuite, lose_first_response
from tests.support import processes
from tests.support.servers.azurite import KEY, NAME, OTHER_KEY, run_azurite
from tests.support.servers.fault_proxy import FaultProxy
from tests.support.servers.scripted import Scripted
from tests.support.servers.truncating_proxy import CuttingProxy
from tests.support.timing import wait_until

KIB = 1024
CREDENTIALS = f"AccountName={NAME};AccountKey={KEY}"


@pytest.fixture(scope="module")
def azurite():
    with run_azurite() as server:
        yield server


@pytest.fixture
def options(azurite):
    return {**azurite.options(), "storage_path": "/registry", "azure_block_bytes": 256 * KIB}


@pytest.fixture
def driver(options):
    driver = AzureBlobDriver(**options)
    yield driver
    driver.close()


class TestAzureBlobDriver(DriverSuite):
    @pytest.fixture(autouse=True)
    def few_rounds(self, monkeypatch):
        # The emulator answers one request after another, and slowly; other stores are tried with all rounds.
        monkeypatch.setattr(conditions, "ROUNDS", 8)

    @pytest.fixture
    def driver(self, options):
        driver = AzureBlobDriver(**options)
        yield driver
        driver.close()

    @pytest.fixture
    def broken_driver(self, options, azurite):
        """A driver whose container was removed."""
        driver = AzureBlobDriver(**options)
        with azurite.connect() as client:
            client.delete_container(options["azure_storage_container"])
        yield driver
        driver.close()


@pytest.mark.slow
class TestRacesOnAzure(conditions.Conditions):
    """With all rounds."""

    driver = TestAzureBlobDriver.driver


class TestAnUpload:
    """A content of several blocks of 256 KiB."""

    def test_that_ends_with_a_block_is_complete(self, driver, large):
        assert 1024 * KIB == driver.stream_write("a", [large[: 1024 * KIB]])
        assert large[: 1024 * KIB] == driver.get_content("a")

    def test_whose_source_fails_leaves_the_old_content(self, driver, large):
        def blocks():
            yield large
            raise KeyError

        driver.put_content("a", b"old")
        with pytest.raises(KeyError):
            driver.stream_write("a", blocks())
        assert b"old" == driver.get_content("a")

    def test_among_concurrent_ones_is_kept_complete(self, driver):
        contents = [bytes([number]) * 600 * KIB for number in range(8)]
        raised = race(*(lambda content=content: driver.stream_write("a", [content]) for content in contents))
        assert all(isinstance(error, StorageUnavailable) for error in raised)
        assert driver.get_content("a") in contents

    @pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
    def test_is_complete_or_missing_on_an_unreliable_network(self, options, azurite, monkeypatch, large, seed):
        with FaultProxy(azurite.port, seed=seed) as proxy:
            driver = AzureBlobDriver(**through(options, proxy))
            impatient(driver, monkeypatch)
            written = 0
            with proxy.faulty(0.2):
                for number in range(8):
                    with contextlib.suppress(StorageUnavailable):
                        assert len(large) == driver.stream_write(f"a/{number}", [large])
                        written += 1
            assert 4 <= written
            assert proxy.met.total() > 10
            for path in driver.list_directory("a"):
                assert large == driver.get_content(path)
            driver.close()


def through(options, proxy):
    return {**options, "azure_endpoint": f"http://127.0.0.1:{proxy.port}/{NAME}"}


def impatient(driver, monkeypatch):
    """Let it wait for nothing."""
    monkeypatch.setattr("azure.core.pipeline.transport.RequestsTransport.sleep", lambda self, _: None)
    monkeypatch.setattr("time.sleep", lambda _: None)


@pytest.fixture
def large():
    """A content that takes several read requests."""
    return bytes(range(256)) * 24_577


class TestAnInterruptedRead:
    @pytest.fixture
    def proxy(self, azurite):
        with CuttingProxy(azurite.port) as proxy:
            yield proxy

    @pytest.fixture
    def driver(self, options, proxy, monkeypatch):
        driver = AzureBlobDriver(**through(options, proxy))
        impatient(driver, monkeypatch)
        yield driver
        driver.close()

    def test_resumes_where_it_stopped(self, driver, proxy, large):
        driver.stream_write("a", [large])
        proxy.cut_after, proxy.most_cuts = 900 * KIB, 2  # its client asks three times
        assert large == b"".join(driver.stream_read("a"))
        assert 2 == proxy.cuts
        proxy.most_cuts = 4
        assert large[5:-5] == b"".join(driver.stream_read("a", 5, len(large) - 10))
        assert 4 == proxy.cuts

    def test_is_an_error_after_repeated_interruptions(self, driver, proxy, large):
        driver.stream_write("a", [large])
        blocks = driver.stream_read("a")
        next(blocks)
        proxy.cut_after = 10
        with pytest.raises(StorageUnavailable):
            list(blocks)


class TestAConcurrentRead:
    def test_is_an_error_if_the_file_is_replaced(self, driver, large):
        driver.stream_write("a", [large])
        blocks = driver.stream_read("a")
        next(blocks)
        driver.stream_write("a", [large[::-1]])
        with pytest.raises(StorageError, match="replaced"):
            list(blocks)

    def test_continues_if_the_file_is_touched(self, driver, large):
        driver.stream_write("a", [large])
        blocks = driver.stream_read("a")
        first = next(blocks)
        driver.touch("a")
        assert large == first + b"".join(blocks)

    def test_continues_if_the_file_of_another_registry_is_touched(self, driver, large, client):
        client.upload_blob("registry/a", large)
        blocks = driver.stream_read("a")
        first = next(blocks)
        driver.touch("a")
        assert large == first + b"".join(blocks)


@pytest.fixture
def client(azurite, options):
    """An independent client."""
    with azurite.connect() as client:
        yield client.get_container_client(options["azure_storage_container"])


class TestAChangeWithALostResponse(LostResponseSuite):
    """Azure has made the change, and receives the request again."""

    @pytest.fixture
    def driver(self, options, azurite, monkeypatch):
        with FaultProxy(azurite.port) as self.proxy:
            driver = AzureBlobDriver(**through(options, self.proxy))
            impatient(driver, monkeypatch)
            yield driver
            driver.close()

    @pytest.fixture
    def lost(self, driver, monkeypatch):
        return lose_first_response(self.proxy, monkeypatch)


class TestAContainerOfAnotherRegistry(ForeignStoreSuite):
    @pytest.fixture
    def put(self, client):
        return client.upload_blob

    @pytest.fixture
    def open_driver(self, options):
        return lambda path: AzureBlobDriver(**{**options, "storage_path": path})

    def test_is_served_with_its_large_files(self, driver, client):
        blob = client.get_blob_client("registry/docker/registry/v2/blobs/x")
        blob.create_append_blob()  # as registry:2 writes large ones
        blob.append_block(b"con")
        blob.append_block(b"tent")
        assert b"content" == driver.get_content("docker/registry/v2/blobs/x")
        driver.move("docker/registry/v2/blobs/x", "y")
        assert b"content" == driver.get_content("y")


class TestALongFolder:
    def test_is_removed_completely(self, driver, client):
        with ThreadPoolExecutor(8) as executor:
            list(executor.map(lambda number: driver.put_content(f"a/{number}", b""), range(300)))
        assert 300 == len(list(driver.walk("a")))
        driver.remove("a")
        assert [] == list(client.list_blob_names())


class TestASignedUrl:
    def test_grants_access_to_the_file(self, driver):
        driver.put_content("a b/ü", b"content")
        url = driver.content_redirect_url("a b/ü")
        assert b"content" == requests.get(url, timeout=20).content
        assert 403 == requests.get(url.replace("sig=", "sig=a"), timeout=20).status_code
        assert 400 <= requests.put(url, b"evil", headers={"x-ms-blob-type": "BlockBlob"}, timeout=20).status_code
        assert b"content" == driver.get_content("a b/ü")

    def test_grants_no_access_after_its_expiry(self, options):
        driver = AzureBlobDriver(**options, azure_redirect_seconds=1)
        driver.put_content("a", b"content")
        url = driver.content_redirect_url("a")
        wait_until(lambda: 403 == requests.get(url, timeout=20).status_code, seconds=10)
        driver.close()


class TestAClosedDriver:
    def test_has_no_connections(self, options):
        before = len(os.listdir("/proc/self/fd"))
        driver = AzureBlobDriver(**options)
        driver.put_content("a", b"content")
        driver.close()
        assert before == len(os.listdir("/proc/self/fd"))


class TestATouch:
    def test_leaves_a_file_as_it_is_that_is_replaced_meanwhile(self, options, azurite, client, monkeypatch):
        with FaultProxy(azurite.port) as proxy:
            driver = AzureBlobDriver(**through(options, proxy))
            driver.put_content("a", b"old")

            def replace_before_put():
                if proxy.requests[-1].startswith("PUT"):
                    client.upload_blob("registry/a", b"new", overwrite=True, metadata={"by": "another"})
                return ""

            monkeypatch.setattr(proxy, "_choose", replace_before_put)
            driver.touch("a")
            driver.close()
        blob = client.get_blob_client("registry/a")
        assert (b"new", {"by": "another"}) == (blob.download_blob().readall(), blob.get_blob_properties().metadata)


class TestACopy:
    def test_that_fails_leaves_no_empty_file(self, monkeypatch):
        """Scripted, because Azurite never fails to copy."""
        listing = b"<EnumerationResults><Blobs/><NextMarker/></EnumerationResults>"
        blob = {"ETag": '"1"', "Last-Modified": "Sun, 06 Nov 1994 08:49:37 GMT", "x-ms-blob-type": "BlockBlob"}
        target = {**blob, "ETag": '"2"', "x-ms-copy-id": "id"}
        answers = [
            answer(200, listing, **{"Content-Type": "application/xml"}),
            answer(200, **blob),
            answer(202, **target, **{"x-ms-copy-status": "pending"}),
            answer(200, **target, **{"x-ms-copy-status": "failed"}),
            answer(202),
        ]
        with Scripted(*answers) as server:
            driver = AzureBlobDriver(
                azure_storage_account_name=NAME, azure_storage_account_key=KEY, azure_endpoint=server.url,
                azure_use_https=False,
            )  # fmt: skip
            with pytest.raises(StorageUnavailable, match="failed to copy"):
                driver.move("a", "b")
            driver.close()
        deletion = server.requests[-1].decode("latin-1")
        assert (True, True) == (deletion.startswith("DELETE /registry/b "), 'If-Match: "2"' in deletion)


def answer(status, body=b"", **headers):
    lines = [f"HTTP/1.1 {status} x", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


class TestAConnectionString:
    @pytest.fixture
    def container(self, options):
        return {"azure_storage_container": options["azure_storage_container"]}

    def test_is_sufficient(self, container, azurite):
        text = f"DefaultEndpointsProtocol=http;AccountName={NAME};AccountKey={KEY};BlobEndpoint={azurite.endpoint};"
        driver = AzureBlobDriver(**container, azure_connection_string=text)
        driver.put_content("a", b"content")
        assert b"content" == requests.get(driver.content_redirect_url("a"), timeout=20).content
        driver.close()

    def test_may_have_a_signature_instead_of_the_key(self, container, azurite):
        until = datetime.now(timezone.utc) + timedelta(hours=1)
        types, rights = ResourceTypes.from_string("sco"), AccountSasPermissions.from_string("rwdlacup")
        signature = generate_account_sas(NAME, KEY, types, rights, until)
        text = f"BlobEndpoint={azurite.endpoint};SharedAccessSignature={signature}"
        driver = AzureBlobDriver(**container, azure_connection_string=text)
        driver.put_content("a", b"content")
        driver.move("a", "b")
        assert b"content" == driver.get_content("b")
        assert driver.content_redirect_url("b") is None
        driver.close()

    def test_without_credentials_is_rejected(self):
        with pytest.raises(ConfigError, match="azure_connection_string has neither"):
            AzureBlobDriver(azure_connection_string="nothing")


class TestAnErrorAtTheStart:
    @pytest.mark.parametrize(
        ("expected", "wrong"),
        [
            ("account_name is not set", {"azure_endpoint": None, "azure_storage_account_name": None}),
            ("no credentials for Azure", {"azure_storage_account_key": None}),
            ("not valid Base64", {"azure_storage_account_key": "not a key"}),
            ("not valid Base64", {"azure_storage_account_key": "schlüssel"}),
            ("azure_connection_string, is not valid", {"azure_connection_string": "AccountName=a;AccountKey=x"}),
            (
                "azure_connection_string, is not the URL",
                {"azure_connection_string": f"BlobEndpoint=http://;{CREDENTIALS}"},
            ),
            ("azure_storage_container is not set", {"azure_storage_container": ""}),
            ("azure_use_https is true", {"azure_use_https": True}),
        ],
    )
    def test_is_an_invalid_setting(self, options, expected, wrong):
        with pytest.raises(ConfigError, match=expected):
            AzureBlobDriver(**{**options, **wrong})

    @pytest.mark.parametrize(
        ("expected", "wrong"),
        [
            ("no container of the name", {"azure_storage_container": "nowhere"}),
            ("these credentials", {"azure_storage_account_key": OTHER_KEY}),
        ],
    )
    def test_is_a_name_unknown_to_azure(self, options, expected, wrong):
        with pytest.raises(StorageError, match=expected):
            AzureBlobDriver(**{**options, **wrong})

    def test_is_an_unreachable_store(self, options, monkeypatch):
        monkeypatch.setattr("azure.core.pipeline.transport.RequestsTransport.sleep", lambda self, _: None)
        for away in (f"http://127.0.0.1:{processes.free_port()}/{NAME}", "http://a..b"):
            with pytest.raises(StorageUnavailable, match="cannot be reached"):
                AzureBlobDriver(**{**options, "azure_endpoint": away})
