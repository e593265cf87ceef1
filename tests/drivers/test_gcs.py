"""The contract of drivers on an emulator of Google Cloud Storage, and behavior specific to Google."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding

pytest.importorskip("google.cloud.storage", reason="google-cloud-storage is not installed")
pytest.importorskip("gcp_storage_emulator", reason="gcp-storage-emulator is not installed")

from docker_registry.config import legacy
from docker_registry.drivers.gcs.driver import GcsDriver
from docker_registry.drivers.testing import DriverSuite, conditions
from docker_registry.errors import ConfigError, StorageError, StorageUnavailable
from tests.drivers.object_stores import BrokenReadSuite, ForeignStoreSuite, LostResponseSuite, lose_first_response
from tests.support import processes
from tests.support.servers.fault_proxy import FaultProxy
from tests.support.servers.gcs import make_service_account, run_gcs
from tests.support.servers.truncating_proxy import CuttingProxy

KIB = 1024


@pytest.fixture(scope="module")
def gcs():
    with run_gcs() as server:
        yield server


@pytest.fixture
def options(gcs, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.endpoint)
    return {"gcs_bucket": gcs.make_bucket(), "storage_path": "/registry", "gcs_chunk_bytes": 256 * KIB}


@pytest.fixture
def driver(options):
    driver = GcsDriver(**options)
    yield driver
    driver.close()


class TestGcsDriver(DriverSuite):
    @pytest.fixture(autouse=True)
    def few_rounds(self, monkeypatch):
        # The emulator answers one request after another, and slowly; other stores are tried with all rounds.
        monkeypatch.setattr(conditions, "ROUNDS", 8)

    @pytest.fixture
    def driver(self, options):
        driver = GcsDriver(**options)
        yield driver
        driver.close()

    @pytest.fixture
    def broken_driver(self, options, gcs):
        """A driver that has lost all permissions."""
        driver = GcsDriver(**options)
        gcs.forbid(options["gcs_bucket"])
        yield driver
        driver.close()


@pytest.mark.slow
class TestRacesOnGcs(conditions.Conditions):
    """With all rounds."""

    driver = TestGcsDriver.driver


class TestAnUpload:
    """A content of several chunks of 256 KiB."""

    @pytest.fixture
    def large(self):
        return bytes(range(256)) * 4096 + b"end"

    def test_that_ends_with_a_chunk_is_complete(self, driver, gcs, large):
        assert 1024 * KIB == driver.stream_write("a", [large[: 1024 * KIB]])
        assert large[: 1024 * KIB] == driver.get_content("a")
        assert 0 == gcs.uploads()

    def test_whose_source_fails_is_cancelled(self, driver, gcs, large):
        def blocks():
            yield large
            assert 1 == gcs.uploads()
            raise KeyError

        with pytest.raises(KeyError):
            driver.stream_write("a", blocks())
        assert (0, False) == (gcs.uploads(), driver.exists("a"))

    @pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
    def test_resumes_on_an_unreliable_network(self, options, gcs, monkeypatch, large, seed):
        monkeypatch.setattr("time.sleep", lambda _: None)
        with FaultProxy(gcs.port, seed=seed) as proxy:
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"127.0.0.1:{proxy.port}")
            driver = GcsDriver(**options)
            written = 0
            with proxy.faulty(0.3):
                for number in range(16):
                    with contextlib.suppress(StorageUnavailable):
                        assert len(large) == driver.stream_write(f"a/{number}", [large])
                        written += 1
            assert 4 <= written
            assert proxy.met.total() > 10
            for path in driver.list_directory("a"):
                assert large == driver.get_content(path)
            driver.close()


class InterruptedUploads(BaseHTTPRequestHandler):
    """Google Cloud Storage that receives 256 KiB of each request of an upload, and then closes the connection."""

    def do_GET(self):
        self.answer(200, {"items": []})

    def do_POST(self):
        self.server.received = b""
        self.answer(200, {}, Location=f"http://127.0.0.1:{self.server.server_port}/upload")

    def do_PUT(self):
        received, (span, _, total) = self.server.received, self.headers["Content-Range"][6:].partition("/")
        if span != "*":
            self.server.received += self.rfile.read(256 * KIB)
            self.close_connection = True
        elif total == str(len(received)):
            self.answer(200, {"name": "a", "size": total, "updated": "2026-01-01T00:00:00Z", "generation": "1"})
        else:
            self.answer(308, {}, Range=f"bytes=0-{len(received) - 1}")

    def answer(self, status, document, **headers):
        content = json.dumps(document).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def test_an_upload_continues_as_long_as_bytes_arrive(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    content = bytes(range(256)) * 8 * KIB  # in one chunk of 2 MiB
    with ThreadingHTTPServer(("127.0.0.1", 0), InterruptedUploads) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"127.0.0.1:{server.server_port}")
        try:
            driver = GcsDriver(gcs_bucket="b", gcs_chunk_bytes=len(content))
            assert len(content) == driver.stream_write("a", [content])
            assert content == server.received
            driver.close()
        finally:
            server.shutdown()


class TestAnInterruptedRead(BrokenReadSuite):
    @pytest.fixture
    def proxy(self, gcs):
        with CuttingProxy(gcs.port) as proxy:
            yield proxy

    @pytest.fixture
    def driver(self, options, proxy, monkeypatch):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"127.0.0.1:{proxy.port}")
        driver = GcsDriver(**options)
        yield driver
        driver.close()

    @pytest.fixture
    def large(self):
        return bytes(range(256)) * 12_289


class TestAChangeWithALostResponse(LostResponseSuite):
    """Google has made the change, and receives the request again."""

    @pytest.fixture
    def driver(self, options, gcs, monkeypatch):
        with FaultProxy(gcs.port) as self.proxy:
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"127.0.0.1:{self.proxy.port}")
            driver = GcsDriver(**options)
            yield driver
            driver.close()

    @pytest.fixture
    def lost(self, driver, monkeypatch):
        return lose_first_response(self.proxy, monkeypatch)


class TestABucketOfAnotherRegistry(ForeignStoreSuite):
    @pytest.fixture
    def put(self, gcs, options):
        return lambda path, content: gcs.put(options["gcs_bucket"], path, content)

    @pytest.fixture
    def open_driver(self, options):
        return lambda path: GcsDriver(**{**options, "storage_path": path})


class TestALongList:
    def test_is_read_page_by_page(self, driver):
        paths = sorted(f"a/{number:02}/{name}" for number in range(17) for name in "xy")
        for path in paths:
            driver.put_content(path, b"")
        assert paths == sorted(stat.path for stat in driver.walk())
        assert sorted({path.rpartition("/")[0] for path in paths}) == sorted(driver.list_directory("a"))
        driver.remove("a")
        assert [] == list(driver.walk())


class TestASignedUrl:
    @pytest.fixture
    def account(self, tmp_path):
        return make_service_account(tmp_path)

    def test_grants_access_to_the_file_until_it_expires(self, options, account):
        driver = GcsDriver(**options, gcs_credentials_file=account, gcs_redirect_seconds=77)
        driver.put_content("a b/ü", b"content")
        url = driver.content_redirect_url("a b/ü")
        assert b"content" == requests.get(url, timeout=20).content
        assert ["77"] == parse_qs(urlsplit(url).query)["X-Goog-Expires"]
        driver.close()

    def test_is_signed_by_the_key_of_the_account(self, options, account):
        """Source: https://cloud.google.com/storage/docs/authentication/canonical-requests."""
        driver = GcsDriver(**options, gcs_credentials_file=account)
        url = urlsplit(driver.content_redirect_url("a"))
        query, _, signature = url.query.rpartition("&X-Goog-Signature=")
        canonical = f"GET\n{url.path}\n{query}\nhost:{url.netloc}\n\nhost\nUNSIGNED-PAYLOAD"
        said = parse_qs(query)
        scope = said["X-Goog-Credential"][0].partition("/")[2]
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"GOOG4-RSA-SHA256\n{said['X-Goog-Date'][0]}\n{scope}\n{hashed}"
        key = serialization.load_pem_private_key(json.loads(account.read_text())["private_key"].encode(), None)
        key.public_key().verify(bytes.fromhex(signature), text.encode(), padding.PKCS1v15(), hashes.SHA256())
        driver.close()

    def test_is_missing_without_a_key(self, driver):
        assert driver.content_redirect_url("a") is None


class TestAnErrorAtTheStart:
    def test_is_an_invalid_bucket_name(self):
        with pytest.raises(ConfigError, match="gcs_bucket is not set"):
            GcsDriver()

    def test_is_a_missing_bucket(self, options):
        with pytest.raises(StorageError, match="no bucket nowhere"):
            GcsDriver(**{**options, "gcs_bucket": "nowhere"})

    def test_is_a_bucket_without_access(self, options, gcs):
        gcs.forbid(options["gcs_bucket"])
        with pytest.raises(StorageError, match="denies these credentials"):
            GcsDriver(**options)

    def test_is_missing_credentials(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setenv("NO_GCE_CHECK", "true")
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
        with pytest.raises(ConfigError, match="no credentials for Google Cloud Storage"):
            GcsDriver(gcs_bucket="lab")

    @pytest.mark.parametrize("content", [None, "{}", "not JSON"])
    def test_is_an_invalid_key_file(self, tmp_path, content):
        path = tmp_path / "key.json"
        if content is not None:
            path.write_text(content)
        with pytest.raises(ConfigError, match="file of gcs_credentials_file"):
            GcsDriver(gcs_bucket="lab", gcs_credentials_file=path)

    def test_is_an_invalid_chunk_size(self, options):
        with pytest.raises(ConfigError, match="multiple of 262144"):
            GcsDriver(**{**options, "gcs_chunk_bytes": 300_000})

    def test_is_an_unreachable_store(self, options, monkeypatch):
        monkeypatch.setattr("time.sleep", lambda _: None)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{processes.free_port()}")
        with pytest.raises(StorageUnavailable, match="cannot be reached"):
            GcsDriver(**options)


class TestAnObsoleteSetting:
    @pytest.mark.parametrize("name", ["gs_access_key", "gs_secret_key", "gs_secure", "oauth2"])
    def test_is_rejected_with_its_replacement(self, name):
        assert re.search("gcs_credentials_file|gcs_endpoint", legacy.reason_ignored(name, "gcs"))
        assert "the driver s3 does not take it" == legacy.reason_ignored(name, "s3")
