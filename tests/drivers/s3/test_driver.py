"""The contract of drivers on a real S3 server, and behavior specific to S3."""

from __future__ import annotations

import io
import threading
import time

import pytest
import requests

pytest.importorskip("boto3", reason="boto3 is not installed")

from botocore.awsrequest import AWSResponse
from botocore.credentials import Credentials
from urllib3.response import HTTPResponse

from docker_registry.drivers.s3 import bucket, multipart
from docker_registry.drivers.s3.connections import Connections
from docker_registry.drivers.s3.driver import S3Driver
from docker_registry.drivers.s3.signatures import RequestSigner
from docker_registry.drivers.testing import DriverSuite, conditions
from docker_registry.errors import PathInvalid, PathNotFound, PreconditionFailed, StorageError, StorageUnavailable
from tests.drivers.object_stores import BrokenReadSuite, LostResponseSuite
from tests.support.clients import programs
from tests.support.servers.seaweedfs import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server
from tests.support.servers.truncating_proxy import CuttingProxy
from tests.support.timing import wait_until

MIB = 1024 * 1024


def one_at_a_time(application):
    """Return a WSGI application for moto, which answers 500 when two requests put one object at the same moment."""
    lock = threading.Lock()

    def answer(environ, start_response):
        with lock:
            return list(application(environ, start_response))

    return answer


@pytest.fixture(scope="session")
def moto():
    """A second server, which accepts every key."""
    try:
        from moto.server import ThreadedMotoServer
    except ImportError:
        programs.missing("moto is not installed (pip install 'moto[s3]' flask-cors)")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    server._server.app = one_at_a_time(server._server.app)
    found = S3Server(server.get_host_and_port()[1])
    client = found.connect()
    client.create_bucket(Bucket=BUCKET)
    client.close()
    yield found
    server.stop()


@pytest.fixture
def options(seaweedfs):
    return {**seaweedfs.options(), "s3_part_bytes": 5 * MIB}


@pytest.fixture
def driver(options):
    driver = S3Driver(**options)
    yield driver
    driver.close()


@pytest.fixture
def client(seaweedfs):
    """An independent client."""
    client = seaweedfs.connect()
    yield client
    client.close()


class S3Suite(DriverSuite):
    @pytest.fixture
    def driver(self, options):
        driver = S3Driver(**options)
        yield driver
        driver.close()


class TestS3Driver(S3Suite):
    @pytest.fixture
    def broken_driver(self, options):
        """A driver whose key has become invalid."""
        driver = S3Driver(**options)
        driver._objects.client._request_signer._credentials.secret_key = "changed"
        yield driver
        driver.close()


class TestS3DriverOnMoto(S3Suite):
    @pytest.fixture(autouse=True)
    def few_rounds(self, monkeypatch):
        # The server answers one request after another, and slowly; the other one is tried with all rounds.
        monkeypatch.setattr(conditions, "ROUNDS", 8)

    @pytest.fixture
    def options(self, moto):
        return {**moto.options(), "s3_part_bytes": 5 * MIB}

    @pytest.fixture
    def broken_driver(self, options, moto):
        """A driver whose bucket was removed."""
        client = moto.connect()
        client.create_bucket(Bucket="gone")
        driver = S3Driver(**{**options, "s3_bucket": "gone"})
        client.delete_bucket(Bucket="gone")
        client.close()
        driver._objects._listed_at = 0
        yield driver
        driver.close()


@pytest.mark.slow
class TestRacesOnMoto(conditions.Conditions):
    """With all rounds."""

    options = TestS3DriverOnMoto.options
    driver = TestS3DriverOnMoto.driver


def unfinished(client):
    return client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])


@pytest.fixture
def large():
    """Three parts and some more."""
    return bytes(range(256)) * 4096 * 15 + b"end"


class TestALargeFile:
    def test_is_stored_unchanged(self, driver, client, options, large):
        blocks = (large[start : start + 100_001] for start in range(0, len(large), 100_001))
        assert len(large) == driver.stream_write("a/b", blocks)
        assert large == driver.get_content("a/b")
        assert large[10 * MIB - 5 : 10 * MIB + 5] == b"".join(driver.stream_read("a/b", 10 * MIB - 5, 10))
        head = client.head_object(Bucket=BUCKET, Key=f"{options['storage_path'][1:]}/a/b")
        assert head["ETag"].endswith('-4"')
        assert [] == unfinished(client)

    @pytest.mark.parametrize(("size", "parts"), [(5 * MIB - 1, 0), (5 * MIB, 1), (5 * MIB + 1, 2), (10 * MIB, 2)])
    def test_has_as_many_parts_as_it_needs(self, driver, client, options, size, parts):
        assert size == driver.stream_write("a", [bytes(size)])
        head = client.head_object(Bucket=BUCKET, Key=f"{options['storage_path'][1:]}/a")
        assert (size, str(parts or "")) == (head["ContentLength"], head["ETag"].strip('"').partition("-")[2])

    def test_is_aborted_if_its_source_fails(self, driver, client, large):
        def blocks():
            yield large
            assert 1 == len(unfinished(client))
            raise KeyError

        with pytest.raises(KeyError):
            driver.stream_write("a", blocks())
        assert ([], False) == (unfinished(client), driver.exists("a"))

    def test_is_sent_while_the_next_part_is_received(self, driver):
        sending, ends = threading.Event(), threading.Event()

        def hold(**_):
            sending.set()
            assert ends.wait(60)

        driver._objects.client.meta.events.register("before-call.s3.UploadPart", hold)

        def blocks():
            yield bytes(5 * MIB)
            assert sending.wait(60)
            yield bytes(5 * MIB)
            ends.set()

        assert 10 * MIB == driver.stream_write("a", blocks())

    def test_is_moved_and_touched_by_parts(self, driver, client, options, large, monkeypatch):
        monkeypatch.setattr(multipart, "COPY_PART_BYTES", 5 * MIB)
        driver.stream_write("a", [large])
        driver.touch("a")
        driver.move("a", "b/c")
        assert (large, False) == (driver.get_content("b/c"), driver.exists("a"))
        head = client.head_object(Bucket=BUCKET, Key=f"{options['storage_path'][1:]}/b/c")
        assert "AES256" == head["ServerSideEncryption"]


class TestAFileNearTheMaximumOfParts:
    """S3 accepts 10 000 parts: with 16 MiB each, 156 GiB."""

    @pytest.fixture
    def driver(self, options, monkeypatch):
        monkeypatch.setattr(multipart, "_EQUAL_PARTS", 2)
        monkeypatch.setattr(multipart, "_GROWTH_FACTOR", 2)
        monkeypatch.setattr(multipart, "_MAX_PARTS", 4)
        driver = S3Driver(**options)
        yield driver
        driver.close()

    def test_continues_in_larger_parts(self, driver, client, options):
        large = b"".join(bytes([number]) * MIB for number in range(25))
        driver.stream_write("a", (large[start : start + 700_000] for start in range(0, len(large), 700_000)))
        assert large == driver.get_content("a")
        found = client.head_object(Bucket=BUCKET, Key=f"{options['storage_path']}/a")
        assert found["ETag"].endswith('-4"')  # 5, 5, 10 and 5 MiB

    def test_that_exceeds_it_is_rejected_and_leaves_nothing(self, driver, client, options):
        with pytest.raises(StorageError, match="s3_part_bytes"):
            driver.stream_write("a", (bytes(MIB) for _ in range(31)))
        assert not driver.exists("a")
        assert [] == client.list_multipart_uploads(Bucket=BUCKET, Prefix=options["storage_path"]).get("Uploads", [])


class TestTheSweep:
    def test_aborts_uploads_of_dead_processes(self, driver, client, options):
        key = f"{options['storage_path'][1:]}/a"
        upload = client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
        client.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=1, Body=b"x")
        assert (0, 1) == (driver.remove_leftovers(3600), len(unfinished(client)))
        time.sleep(1.1)  # it counts in seconds
        assert (1, []) == (driver.remove_leftovers(0), unfinished(client))

    def test_keeps_those_of_other_roots(self, driver, client, options):
        key = f"{options['storage_path'][1:]}-other/a"
        upload = client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
        time.sleep(1.1)
        assert (0, 1) == (driver.remove_leftovers(0), len(unfinished(client)))
        client.abort_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload)


class TestALongList:
    @pytest.fixture(params=["SeaweedFS", "other stores"])
    def driver(self, request, driver, monkeypatch):
        monkeypatch.setattr(bucket, "_PAGE_KEYS", 2)
        driver._objects._shows_empty_folders = request.param == "SeaweedFS"
        return driver

    def test_is_read_in_pages(self, driver):
        paths = [f"a/{number}" for number in range(5)] + [f"a/x{number}/y/{n}" for number in range(3) for n in range(5)]
        for path in (*paths, "a-b", "a.b/c", "ab"):
            driver.put_content(path, b"")
        assert sorted({path.split("/")[1] for path in paths}) == sorted(path[2:] for path in driver.list_directory("a"))
        assert ["a", "a-b", "a.b", "ab"] == sorted(driver.list_directory())
        assert sorted(paths) == sorted(stat.path for stat in driver.walk("a"))
        driver.remove("a")
        assert ["a-b", "a.b/c", "ab"] == sorted(stat.path for stat in driver.walk())


class TestARemovalWhileS3IsBusy:
    """S3 reports it for single keys, in a response with status 200."""

    @pytest.fixture
    def refuse(self, driver):
        """Let S3 answer the next removals with errors for one key."""

        def refuse(code, times):
            def answer(request, **_):
                nonlocal times
                times -= 1
                if times < 0:
                    return None
                body = f"<DeleteResult><Error><Key>{driver._root}f/a</Key><Code>{code}</Code></Error></DeleteResult>"
                raw = HTTPResponse(io.BytesIO(body.encode()), preload_content=False)
                return AWSResponse(request.url, 200, {"content-type": "application/xml"}, raw)

            driver._objects.client.meta.events.register("before-send.s3.DeleteObjects", answer)

        driver.put_content("f/a", b"content")
        driver.put_content("f/b", b"content")
        return refuse

    def test_is_retried(self, driver, refuse):
        refuse("ServiceUnavailable", 2)
        driver.remove("f")
        # Only the rejected key is requested again; the other one was not deleted by our faked response.
        assert ["f/b"] == [stat.path for stat in driver.walk()]

    def test_fails_after_several_attempts(self, driver, refuse):
        refuse("SlowDown", 100)
        with pytest.raises(StorageUnavailable, match="SlowDown"):
            driver.remove("f")

    def test_is_not_retried_if_denied(self, driver, refuse):
        refuse("AccessDenied", 1)
        with pytest.raises(StorageError, match="denies these credentials"):
            driver.remove("f")


class TestABucketWithForeignFiles:
    def test_is_served_unchanged(self, driver, client, options):
        root = options["storage_path"][1:]
        client.put_object(Bucket=BUCKET, Key=f"{root}/docker/registry/v2/blobs/x", Body=b"content")
        client.put_object(Bucket=BUCKET, Key=f"{root}/folder/", Body=b"")
        assert b"content" == driver.get_content("docker/registry/v2/blobs/x")
        assert ["docker/registry/v2/blobs/x"] == [stat.path for stat in driver.walk()]

    def test_ignores_a_path_beside_the_drivers_own(self, driver):
        with pytest.raises(PathInvalid):
            driver.get_content(".docker-registry/conditions-1")


class TestEncryption:
    @pytest.mark.parametrize("is_wanted", [True, False])
    def test_is_as_configured(self, options, client, is_wanted):
        driver = S3Driver(**options, s3_encrypt=is_wanted)
        driver.put_content("a", b"content")
        driver.stream_write("b", [bytes(6 * MIB)])
        driver.move("a", "c")
        driver.touch("b")
        for name in ("b", "c"):
            head = client.head_object(Bucket=BUCKET, Key=f"{options['storage_path'][1:]}/{name}")
            assert ("AES256" if is_wanted else None) == head.get("ServerSideEncryption")
        driver.close()


class TestAStore:
    def test_without_conditional_puts_is_detected(self, driver):
        def forget(request, **_):
            for name in ("If-Match", "If-None-Match"):
                del request.headers[name]

        driver._objects.client.meta.events.register("before-sign.s3.PutObject", forget)
        driver._objects._requests.leave_to_client()
        assert not driver.capabilities.if_match
        assert [] == list(driver._objects.entries(driver._root))

    def test_that_is_unreachable_is_unavailable(self, options, driver, seaweedfs):
        with CuttingProxy(seaweedfs.port) as proxy:
            driver = S3Driver(**{**options, "s3_endpoint": f"http://127.0.0.1:{proxy.port}"})
            proxy.cut_after = 10
            with pytest.raises(StorageUnavailable):
                driver.get_content("a")
        driver.close()


@pytest.fixture
def proxy(seaweedfs):
    with CuttingProxy(seaweedfs.port) as proxy:
        yield proxy


class ThroughTheProxy:
    @pytest.fixture
    def driver(self, options, proxy):
        driver = S3Driver(**{**options, "s3_endpoint": f"http://127.0.0.1:{proxy.port}"})
        yield driver
        driver.close()


class TestAChangeWithALostResponse(ThroughTheProxy, LostResponseSuite):
    """S3 has made the change, and receives the request again."""

    @pytest.fixture
    def lost(self, driver, proxy):
        """Make a change whose first response is lost."""

        def lost(change):
            proxy.cuts, proxy.most_cuts, proxy.cut_after = 0, 1, 10
            change()
            assert 1 == proxy.cuts

        return lost

    def test_completes_a_large_file(self, driver, lost, proxy, large, client):
        def blocks():
            yield large[: 12 * MIB]
            yield large[12 * MIB :]

        def forget(**_):
            proxy.cuts, proxy.most_cuts, proxy.cut_after = 0, 1, 10

        driver._objects.client.meta.events.register("before-call.s3.CompleteMultipartUpload", forget)
        assert len(large) == driver.stream_write("a", blocks())
        assert (large, []) == (driver.get_content("a"), unfinished(client))
        assert 1 == proxy.cuts


class TestAnInterruptedRead(ThroughTheProxy, BrokenReadSuite):
    CUT_BYTES = 4 * MIB


class TestASignedUrl:
    def test_is_valid_without_credentials(self, driver):
        driver.put_content("a ü+%/b", b"content")
        url = driver.content_redirect_url("a ü+%/b")
        assert b"content" == requests.get(url, timeout=60).content
        assert b"ten" == requests.get(url, headers={"Range": "bytes=3-5"}, timeout=60).content
        assert SECRET_KEY not in url
        assert ACCESS_KEY in url

    def test_is_valid_for_one_file_and_a_limited_time(self, options):
        driver = S3Driver(**options, s3_redirect_seconds=1)
        driver.put_content("a", b"content")
        driver.put_content("b", b"content")
        url = driver.content_redirect_url("a")
        assert 403 == requests.get(url.replace("/a?", "/b?"), timeout=60).status_code
        wait_until(lambda: 403 == requests.get(url, timeout=60).status_code, seconds=10)
        driver.close()

    def test_needs_a_path(self, driver):
        with pytest.raises(PathInvalid):
            driver.content_redirect_url("../a")


class TestSmallObjects:
    """Requests that do not pass through botocore's client are an optimization; whatever they cannot do, it does."""

    @pytest.fixture
    def calls(self, driver):
        calls = []
        for call in ("PutObject", "GetObject", "HeadObject", "DeleteObject"):
            driver._objects.client.meta.events.register(
                f"before-call.s3.{call}", lambda model, **_: calls.append(model.name)
            )
        return calls

    def use(self, driver):
        path = "folder/a b+c~%41_é"
        for content in (b"", b"content"):
            driver.put_content(path, content)
            assert (content, len(content)) == (driver.get_content(path), driver.find_size(path))
        version = driver.get_versioned(path).version
        driver.put_content(path, b"newer", if_match=version)
        with pytest.raises(PreconditionFailed):
            driver.put_content(path, b"x", if_match=version)
        assert time.time() - 60 < driver.stat(path).modified < time.time() + 60
        driver.discard_file(path)
        assert (None, None) == (driver.find(path), driver.find_size(path))

    def test_bypass_the_client(self, driver, calls):
        self.use(driver)
        assert [] == calls

    def test_are_left_to_the_client_when_the_store_refuses_them(self, driver, calls):
        requests = driver._objects._requests
        requests._signer = RequestSigner(Credentials("unknown", "unknown"), "us-east-1", requests._signer._host)
        self.use(driver)
        assert ({"PutObject", "GetObject", "HeadObject", "DeleteObject"}, False) == (set(calls), requests.are_possible)

    def test_are_left_to_the_client_when_they_get_no_response(self, driver, calls):
        driver._objects._requests._connections = Connections(
            "http://127.0.0.1:1", ca_file=None, connect_seconds=60, read_seconds=60, max_idle=1
        )
        self.use(driver)
        assert {"PutObject", "GetObject", "HeadObject", "DeleteObject"} == set(calls)


class TestARemovedBucket:
    def test_is_not_an_empty_store(self, moto):
        client = moto.connect()
        client.create_bucket(Bucket="short-lived")
        driver = S3Driver(**{**moto.options(), "s3_bucket": "short-lived"})
        client.delete_bucket(Bucket="short-lived")
        driver._objects._listed_at = 0
        for verb in (driver.exists, driver.stat, driver.get_content, driver.remove):
            with pytest.raises(StorageError) as raised:
                verb("a")
            assert raised.type is not PathNotFound
        driver.close()
        client.close()
