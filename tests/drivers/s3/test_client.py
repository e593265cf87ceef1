"""How a client is created from the settings of S3, and the errors if that fails."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

pytest.importorskip("boto3", reason="boto3 is not installed")

from docker_registry.config import flavors
from docker_registry.config.render import reference
from docker_registry.drivers.s3.client import Account, proxy_url
from docker_registry.drivers.s3.driver import S3Driver
from docker_registry.drivers.s3.object_requests import ObjectRequests
from docker_registry.errors import ConfigError, StorageError, StorageUnavailable
from tests.support import processes
from tests.support.servers.seaweedfs import READER_KEY, READER_SECRET

ROOT = Path(__file__).parents[3]
KEYS = {"access_key": "key", "secret_key": "secret"}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home folder and an environment in which boto3 finds nothing."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def options(seaweedfs):
    return seaweedfs.options()


class TestAStart:
    def test_without_a_bucket_is_an_error(self, options):
        with pytest.raises(ConfigError, match="s3_bucket is not set"):
            S3Driver(**{**options, "s3_bucket": None})

    def test_accepts_the_old_name_of_the_bucket_setting(self, options):
        bucket = options.pop("s3_bucket")
        driver = S3Driver(boto_bucket=bucket, **options)
        driver.put_content("a", b"content")
        assert b"content" == driver.get_content("a")
        driver.close()

    def test_with_a_missing_bucket_is_an_error(self, options):
        with pytest.raises(StorageError, match="bucket of s3_bucket does not exist"):
            S3Driver(**{**options, "s3_bucket": "not-there"})

    @pytest.mark.parametrize("name", ["", "a/b", "Ä"])
    def test_with_an_invalid_bucket_name_is_an_error(self, options, name):
        with pytest.raises((ConfigError, StorageError), match="s3_bucket"):
            S3Driver(**{**options, "s3_bucket": name})

    @pytest.mark.parametrize("name", ["s3_access_key", "s3_secret_key"])
    def test_with_a_wrong_key_is_an_error_that_does_not_show_it(self, options, name):
        with pytest.raises(StorageError, match="refuses the credentials") as refused:
            S3Driver(**{**options, name: "wr0ng"})
        assert "wr0ng" not in str(refused.value)

    @pytest.mark.parametrize("name", ["s3_access_key", "s3_secret_key"])
    def test_with_half_of_the_credentials_is_an_error(self, options, name):
        with pytest.raises(ConfigError, match="set both s3_access_key and s3_secret_key"):
            S3Driver(**{**options, name: None})

    def test_without_credentials_names_their_settings(self, options):
        with pytest.raises(ConfigError, match="s3_access_key"):
            S3Driver(**{**options, "s3_access_key": None, "s3_secret_key": None})

    def test_with_an_unreachable_server_is_unavailable(self, options):
        address = f"127.0.0.1:{processes.free_port()}"
        with pytest.raises(StorageUnavailable) as unreachable:
            S3Driver(**{**options, "s3_endpoint": f"http://{address}"})
        assert f"(address: {address})" in str(unreachable.value)
        assert address not in unreachable.value.sentence  # which clients get

    def test_over_plain_http_must_be_configured(self, options):
        with pytest.raises(ConfigError, match="s3_secure"):
            S3Driver(**{**options, "s3_secure": True})

    def test_with_an_invalid_url_is_an_error(self, options):
        with pytest.raises(ConfigError, match="s3_endpoint"):
            S3Driver(**{**options, "s3_endpoint": "http://"})

    def test_accepts_the_old_names_of_the_host_setting(self, options, seaweedfs):
        del options["s3_endpoint"]
        style = "boto.s3.connection.OrdinaryCallingFormat"
        driver = S3Driver(
            boto_host="127.0.0.1", boto_port=seaweedfs.port, boto_calling_format=style, boto_secure=False, **options
        )
        assert [] == list(driver.list_directory())
        driver.close()

    def test_accepts_the_old_names_of_the_bucket_setting(self, options):
        with pytest.raises(ConfigError, match="boto_calling_format"):
            S3Driver(**options, boto_calling_format="Ordinary")


class TestCredentialsForListingOnly:
    def test_fail_at_the_first_write(self, options):
        driver = S3Driver(**{**options, "s3_access_key": READER_KEY, "s3_secret_key": READER_SECRET})
        assert [] == list(driver.list_directory())
        with pytest.raises(StorageError, match="denies these credentials") as refused:
            driver.put_content("a", b"")
        assert READER_SECRET not in str(refused.value)
        driver.close()


class TestTheFilesOfBoto:
    def test_contain_credentials_and_host(self, home, options, seaweedfs):
        (home / ".boto").write_text(
            f"[Credentials]\naws_access_key_id = {options['s3_access_key']}\n"
            f"aws_secret_access_key = {options['s3_secret_key']}\n"
            f"boto_host = 127.0.0.1\nboto_port = {seaweedfs.port}\n"
        )
        driver = S3Driver(s3_bucket=options["s3_bucket"], storage_path=options["storage_path"], s3_secure=False)
        driver.put_content("a", b"content")
        assert b"content" == driver.get_content("a")
        driver.close()

    def test_are_found_by_boto_config(self, tmp_path, monkeypatch):
        (tmp_path / "boto.cfg").write_text("[Credentials]\ns3_host = rgw.example.org\ns3_port = 7480\n")
        monkeypatch.setenv("BOTO_CONFIG", str(tmp_path / "boto.cfg"))
        assert "https://rgw.example.org:7480" == Account(**KEYS).connect().meta.endpoint_url

    def test_name_a_proxy(self, home):
        (home / ".boto").write_text("[Boto]\nproxy = squid\nproxy_port = 3128\nproxy_user = me\nproxy_pass = a@b\n")
        assert "http://me:a%40b@squid:3128" == proxy_url(None, None, None, None)

    def test_may_be_missing_with_the_home_folder(self, monkeypatch):
        monkeypatch.delenv("HOME")
        monkeypatch.setattr("os.getuid", lambda: 4_294_967_000)  # a user without a name, as in some containers
        assert proxy_url(None, None, None, None) is None

    def test_with_an_invalid_port_of_a_proxy_are_an_error(self, home):
        (home / ".boto").write_text("[Boto]\nproxy = squid\nproxy_port = many\n")
        with pytest.raises(ConfigError, match=r"proxy_port .* boto"):
            proxy_url(None, None, None, None)

    def test_that_are_unreadable_are_an_error(self, home):
        (home / ".boto").write_text("no section\n")
        with pytest.raises(ConfigError, match="boto"):
            Account(**KEYS).connect()


class TestAProxy:
    @pytest.mark.parametrize(
        ("parts", "expected"),
        [
            ((None, None, None, None), None),
            (("squid", None, None, None), "http://squid"),
            (("squid", 3128, None, None), "http://squid:3128"),
            (("https://squid", 3128, "me", "p/w"), "https://me:p%2Fw@squid:3128"),
        ],
    )
    def test_is_composed_of_its_settings(self, parts, expected):
        assert expected == proxy_url(*parts)

    def test_of_the_environment_gets_all_requests(self, monkeypatch):
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.setenv(name, "local.test")
        for host, is_direct in (("store.test", False), ("local.test", True)):
            client = Account(**KEYS, endpoint=f"https://{host}").connect()
            assert (host, is_direct) == (host, ObjectRequests(client, "bucket").are_possible)


class TestAnEndpoint:
    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({}, "https://s3.us-east-1.amazonaws.com"),
            ({"region": "eu-west-1"}, "https://s3.eu-west-1.amazonaws.com"),
            ({"region": "eu-west-1", "is_secure": False}, "http://s3.eu-west-1.amazonaws.com"),
            ({"host": "s3.amazonaws.com", "region": "eu-west-1"}, "https://s3.eu-west-1.amazonaws.com"),
            ({"host": "s3-eu-west-1.amazonaws.com"}, "https://s3.eu-west-1.amazonaws.com"),
            ({"host": "s3.eu-central-1.amazonaws.com"}, "https://s3.eu-central-1.amazonaws.com"),
            ({"host": "rgw.example.org"}, "https://rgw.example.org"),
            ({"host": "rgw.example.org", "port": 7480, "is_secure": False}, "http://rgw.example.org:7480"),
            ({"endpoint": "https://minio:9000", "host": "ignored"}, "https://minio:9000"),
        ],
    )
    def test_follows_the_settings(self, settings, expected):
        assert expected == Account(**KEYS, **settings).connect().meta.endpoint_url

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({}, "https://my-bucket.s3.us-east-1.amazonaws.com/key?"),
            ({"path_style": True}, "https://s3.us-east-1.amazonaws.com/my-bucket/key?"),
            ({"endpoint": "https://minio:9000"}, "https://minio:9000/my-bucket/key?"),
            ({"endpoint": "https://minio:9000", "path_style": False}, "https://my-bucket.minio:9000/key?"),
        ],
    )
    def test_has_the_bucket_in_host_or_path(self, settings, expected):
        client = Account(**KEYS, **settings).connect()
        url = client.generate_presigned_url("get_object", {"Bucket": "my-bucket", "Key": "key"}, 60)
        assert url.startswith(expected)

    def test_needs_the_profile_that_the_environment_names(self, monkeypatch):
        monkeypatch.setenv("AWS_PROFILE", "missing")
        with pytest.raises(ConfigError, match=r"configuration of boto3 is invalid: .*missing"):
            Account(**KEYS).connect()

    def test_is_in_the_region_configured_for_boto3(self, monkeypatch):
        monkeypatch.setenv("AWS_DEFAULT_REGION", "ap-south-1")
        assert "https://s3.ap-south-1.amazonaws.com" == Account(**KEYS).connect().meta.endpoint_url


class Listening(BaseHTTPRequestHandler):
    """A store that accepts every PUT and records its headers."""

    def do_PUT(self):
        self.server.heads.append(self.headers)
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def listening():
    with HTTPServer(("127.0.0.1", 0), Listening) as server:
        server.heads = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class TestAPut:
    def test_does_not_wait_for_100_continue(self, listening):
        # botocore would wait for ever for the end of a truncated response.
        client = Account(**KEYS, is_secure=False, endpoint=f"http://127.0.0.1:{listening.server_port}").connect()
        client.put_object(Bucket="bucket", Key="key", Body=b"content")
        client.close()
        assert [None] == [head["Expect"] for head in listening.heads]


class TestTheDocumentation:
    def test_lists_every_setting_with_its_default(self):
        sample = flavors.read(flavors.folder() / flavors.SAMPLE)
        _, _, table = reference({"s3": S3Driver.settings}, {"s3": sample["s3"]}).partition("### With `storage: s3`\n\n")
        # On a difference, put what stands in `table` at the end of the file.
        assert table
        assert table in (ROOT / "docs/s3.md").read_text()
