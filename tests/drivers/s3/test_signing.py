"""URLs of CloudFront, checked with the public key as CloudFront does."""

from __future__ import annotations

import base64
import json
import time
from urllib.parse import parse_qs, urlsplit

import pytest

pytest.importorskip("boto3", reason="boto3 is not installed")

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from docker_registry.drivers.s3.cloudfront import CloudFront
from docker_registry.drivers.s3.driver import S3Driver
from docker_registry.errors import ConfigError

BASE = "https://d111111abcdef8.cloudfront.net"


def pem(key, form=serialization.PrivateFormat.TraditionalOpenSSL):
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


@pytest.fixture(scope="module")
def private():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def check(url, private, key):
    """Verify the signature of a URL, and return its expiry."""
    resource, _, _ = url.partition("?")
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    until = int(query["Expires"])
    policy = {"Statement": [{"Resource": resource, "Condition": {"DateLessThan": {"AWS:EpochTime": until}}}]}
    signature = base64.b64decode(query["Signature"].translate(str.maketrans("-_~", "+=/")))
    said = json.dumps(policy, separators=(",", ":")).encode()
    private.public_key().verify(signature, said, padding.PKCS1v15(), hashes.SHA1())
    assert (key, "KID") == (resource.removeprefix(BASE), query["Key-Pair-Id"])
    return until


class TestAUrlOfCloudFront:
    def test_is_signed_for_a_limited_time(self, private):
        signer = CloudFront(BASE, "KID", pem(private), 1200)
        until = check(signer.url("registry/images/0a/layer"), private, "/registry/images/0a/layer")
        assert abs(time.time() + 1200 - until) < 60

    def test_is_quoted(self, private):
        url = CloudFront(f"{BASE}/", "KID", pem(private), 60).url("a b/+%")
        check(url, private, "/a%20b/%2B%25")

    def test_is_returned_by_the_driver(self, private, seaweedfs, tmp_path):
        (tmp_path / "key.pem").write_text(pem(private, serialization.PrivateFormat.PKCS8))
        options = seaweedfs.options()
        place = {"cloudfront_base": BASE, "cloudfront_keyid": "KID", "cloudfront_keysecret": str(tmp_path / "key.pem")}
        driver = S3Driver(**options, **place)
        check(driver.content_redirect_url("a/b"), private, f"{options['storage_path']}/a/b")
        driver.close()


class TestAKey:
    def test_may_have_escaped_line_ends(self, private):
        signer = CloudFront(BASE, "KID", pem(private).replace("\n", "\\n"), 60)
        check(signer.url("a"), private, "/a")

    @pytest.mark.parametrize(
        ("base", "key_id", "key", "said"),
        [
            ("d1.cloudfront.net", "KID", "key", "cloudfront.base"),
            (BASE, None, "key", "cloudfront.keyid"),
            (BASE, "KID", None, "cloudfront.keysecret"),
            (BASE, "KID", "/not/there", "cannot be read"),
            (BASE, "KID", "~unknown/key.pem", "cannot be read"),
            (BASE, "KID", "-----BEGIN RSA PRIVATE KEY-----\nx\n", "not an unencrypted private key"),
            (BASE, "KID", pem(ec.generate_private_key(ec.SECP256R1())), "not an RSA key"),
        ],
        ids=range(7),
    )
    def test_that_is_invalid_prevents_the_start(self, base, key_id, key, said):
        with pytest.raises(ConfigError, match=said):
            CloudFront(base, key_id, key, 60)
