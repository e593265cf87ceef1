"""Upstreams of which only the images of some platforms are fetched."""

from __future__ import annotations

import json

import pytest

from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import ConfigError, ManifestUnknown
from docker_registry.registry.mirror.platforms import Platform, PlatformRecords, parse_platforms
from docker_registry.registry.names import Digest, RepositoryName
from docker_registry.resources.memory_budget import JsonBudget
from docker_registry.resources.time_slices import TimeSlices
from tests.registry.mirror.conftest import NAME, THERE
from tests.support.clients.v2 import OCI_INDEX, OCI_MANIFEST, encoded
from tests.support.images import descriptor, make_image

AMD64, ARM64, ARM, WINDOWS, NONE = PLATFORMS = "linux/amd64", "linux/arm64/v8", "linux/arm/v7", "windows/amd64", ""


@pytest.fixture
def index(upstream):
    """An index with an image and its attestation for each platform; the digests of both by the platform."""
    children, digests = [], {}
    for platform in PLATFORMS:
        image, about = (make_image(f"{kind} {platform}", layer_bytes=100) for kind in ("image", "about"))
        parts = dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))
        children.append(descriptor(image.manifest, OCI_MANIFEST, **({"platform": parts} if platform else {})))
        unknown = {"os": "unknown", "architecture": "unknown"}
        annotations = {"vnd.docker.reference.digest": image.digest}
        children.append(descriptor(about.manifest, OCI_MANIFEST, platform=unknown, annotations=annotations))
        for each in (image, about):
            upstream.add(THERE, each.digest, each)
        digests[platform] = image.digest, about.digest
    payload = encoded({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children})
    upstream.put_manifest(THERE, "all", payload, OCI_INDEX)
    return payload, digests


class TestAnUpstreamWithPlatforms:
    def test_may_have_an_index_that_is_nested_as_deeply_as_can_be_read(self, open_mirror, upstream):
        mirrored = open_mirror(platforms=(AMD64,))
        for depth in range(900, 980):  # the calls that read it leave about so many levels
            child = descriptor(b"{}", OCI_MANIFEST, platform={"os": "linux", "architecture": "amd64"})
            whole = encoded({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{**child, "x": "DEEP"}]})
            payload = whole.replace(b'"DEEP"', b"[" * depth + b"]" * depth)
            upstream.put_manifest(THERE, f"deep{depth}", payload, OCI_INDEX)
            assert mirrored.get(f"manifests/deep{depth}").status_code in (200, 502), depth

    @pytest.mark.parametrize(
        ("platforms", "expected"),
        [
            ((AMD64,), {AMD64, NONE}),
            (("linux/arm64", "linux/arm"), {ARM64, ARM, NONE}),
            ((ARM64, "linux/arm/v6"), {ARM64, NONE}),
            ((), set(PLATFORMS)),
        ],
        ids=["one", "with variants", "of one variant", "none"],
    )
    def test_has_images_of_these_only(self, open_mirror, upstream, index, platforms, expected):
        payload, digests = index
        mirrored = open_mirror(platforms=platforms)
        assert payload == mirrored.get("manifests/all").data
        statuses = {
            each: {mirrored.get(f"manifests/{digest}").status_code for digest in pair} for each, pair in digests.items()
        }
        assert {each: {200} if each in expected else {404} for each in PLATFORMS} == statuses
        refused = {digest for each, pair in digests.items() for digest in pair if each not in expected}
        assert refused.isdisjoint(path.rpartition("/")[2] for path in upstream.asked())
        if refused:
            (error,) = mirrored.get(f"manifests/{digests[WINDOWS][0]}").json["errors"]
            assert ("MANIFEST_UNKNOWN", WINDOWS) == (error["code"], error["detail"]["platform"])

    def test_has_what_the_store_has(self, open_mirror, index):
        _, digests = index
        windows = f"manifests/{digests[WINDOWS][0]}"
        assert 200 == open_mirror().get(windows).status_code
        limited = open_mirror(platforms=(AMD64,))
        assert 200 == limited.get("manifests/all").status_code == limited.get(windows).status_code


class TestPlatforms:
    @pytest.mark.parametrize("text", ["linux", "linux/", "/amd64", "linux/amd64/a/b", "Linux/amd64", "linux amd64", ""])
    def test_that_are_invalid_make_the_start_fail(self, text, open_mirror):
        with pytest.raises(ConfigError, match=r"up\.example: a platform is not OS/ARCHITECTURE"):
            open_mirror(platforms=(AMD64, text))

    def test_include_their_variants(self):
        linux, arm = parse_platforms("", (AMD64, "linux/arm"))
        assert linux.includes(linux)
        assert arm.includes(Platform.parse(ARM))
        assert not arm.includes(Platform.parse("linux/arm64"))
        assert Platform.parse("linux/arm64") == Platform.parse(ARM64)

    def test_of_one_image_may_be_several(self):
        records, name, image = PlatformRecords(MemoryDriver(), JsonBudget(TimeSlices())), RepositoryName(NAME), b"image"
        parts = ({"os": "linux", "architecture": "arm", "variant": each} for each in ("v6", "v7"))
        children = [descriptor(image, OCI_MANIFEST, platform=each) for each in parts]
        records.put(name, json.dumps({"manifests": children}).encode())
        for text in ("linux/arm/v6", "linux/arm/v7", "linux/arm"):
            records.check(name, Digest.of(image), parse_platforms("", [text]))
        with pytest.raises(ManifestUnknown):
            records.check(name, Digest.of(image), parse_platforms("", [AMD64, "linux/arm/v5"]))

    @pytest.mark.parametrize(
        "entry",
        [
            7,
            {},
            {"digest": "sha256:odd", "platform": {"os": "linux", "architecture": "amd64"}},
            {"digest": str(Digest.of(b"")), "platform": "linux"},
            {"digest": str(Digest.of(b"")), "platform": {"os": ["linux"], "architecture": {}}},
            {"digest": str(Digest.of(b"")), "platform": {"os": "unknown", "architecture": "unknown"}},
            {
                "digest": str(Digest.of(b"")),
                "platform": {"os": "unknown", "architecture": "unknown"},
                "annotations": ["odd"],
            },
        ],
        ids=str,
    )
    def test_of_odd_entries_are_not_recorded(self, entry):
        driver = MemoryDriver()
        records = PlatformRecords(driver, JsonBudget(TimeSlices()))
        records.put(RepositoryName.parse(NAME), json.dumps({"manifests": [entry], "layers": [entry]}).encode())
        assert [] == list(driver.walk())
