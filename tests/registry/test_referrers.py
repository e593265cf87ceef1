from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest

from docker_registry.drivers.memory import MemoryDriver
from docker_registry.registry import layout
from docker_registry.registry.ingest import Content
from docker_registry.registry.manifest_payload import OCI_INDEX, OCI_MANIFEST
from docker_registry.registry.names import Digest, Tag
from docker_registry.registry.referrers import fallback_tag
from tests.registry.conftest import NAME, OTHER

SUBJECT = Digest.of(b"a manifest that need not be here")


def descriptor(content, media_type="application/vnd.example.config"):
    return {"mediaType": media_type, "digest": str(Digest.of(content)), "size": len(content)}


def push(registry, name=NAME, **fields):
    """Push a manifest about the subject, and return its digest."""
    registry.uploads.put(name, Digest.of(b"{}"), Content(b"{}"))
    subject = {"mediaType": OCI_MANIFEST, "digest": str(SUBJECT), "size": 2}
    document = {"schemaVersion": 2, "config": descriptor(b"{}"), "layers": [], "subject": subject, **fields}
    payload = json.dumps(document).encode()
    return registry.manifest_pushes.put(name, Digest.of(payload), payload, OCI_MANIFEST)


class CountingDriver(MemoryDriver):
    """Counts how often each file is read whole."""

    def __init__(self):
        super().__init__()
        self.reads = Counter()

    def get_content(self, path):
        self.reads[path] += 1
        return super().get_content(path)

    def stream_read(self, path, offset=0, length=None):
        blocks = super().stream_read(path, offset, length)
        self.reads[path] -= length is not None
        return blocks


@pytest.fixture
def driver():
    return CountingDriver()


@pytest.fixture
def reads(driver):
    return driver.reads


class TestAReferrer:
    def test_is_listed_as_its_descriptor(self, registry):
        annotations = {"a": "b"}
        pushed = push(registry, artifactType="application/x", annotations=annotations)
        (entry,) = registry.referrers.list(NAME, SUBJECT)
        assert {
            "mediaType": OCI_MANIFEST,
            "digest": str(pushed.descriptor.digest),
            "size": pushed.descriptor.size,
            "artifactType": "application/x",
            "annotations": annotations,
        } == entry
        assert SUBJECT == pushed.subject

    def test_without_artifact_type_has_that_of_its_config(self, registry):
        push(registry)
        (entry,) = registry.referrers.list(NAME, SUBJECT)
        assert "application/vnd.example.config" == entry["artifactType"]

    def test_that_is_an_index_has_no_config_type(self, registry):
        subject = {"mediaType": OCI_MANIFEST, "digest": str(SUBJECT), "size": 2}
        payload = json.dumps({"schemaVersion": 2, "manifests": [], "subject": subject}).encode()
        registry.manifest_pushes.put(NAME, Tag("x"), payload, OCI_INDEX)
        (entry,) = registry.referrers.list(NAME, SUBJECT)
        assert (OCI_INDEX, False) == (entry["mediaType"], "artifactType" in entry)

    def test_is_listed_in_its_repository_only(self, registry):
        push(registry, OTHER)
        assert () == registry.referrers.list(NAME, SUBJECT)

    def test_is_removed_with_its_manifest(self, registry, driver):
        pushed = push(registry)
        registry.removal.delete_manifest(NAME, pushed.descriptor.digest)
        assert () == registry.referrers.list(NAME, SUBJECT)
        assert [] == list(driver.walk(layout.referrers(NAME, SUBJECT)))

    def test_is_removed_from_a_paged_store_by_later_deletions(self, registry, driver, monkeypatch):
        driver.capabilities = replace(driver.capabilities, pages=True)
        clock = SimpleNamespace(time=time.time, monotonic=time.monotonic)
        monkeypatch.setattr("docker_registry.registry.referrer_removal.time", clock)

        def stored_after_deletion(number):
            registry.removal.delete_manifest(NAME, push(registry, annotations={"number": number}).descriptor.digest)
            return len(list(driver.walk(layout.referrers(NAME, SUBJECT))))

        assert [1, 2, 3] == [stored_after_deletion(number) for number in "123"]
        kept = push(registry, annotations={"number": "1"}).descriptor.digest
        clock.monotonic = lambda: time.monotonic() + 300
        assert [3, 3] == [stored_after_deletion(number) for number in "45"], "those two, and the one that was kept"
        assert [str(kept)] == [entry["digest"] for entry in registry.referrers.list(NAME, SUBJECT)]

    def test_is_not_listed_before_it_is_pushed(self, registry, driver):
        pushed = push(registry)
        driver.remove(layout.revision_link(NAME, pushed.descriptor.digest))
        assert () == registry.referrers.list(NAME, SUBJECT)

    @pytest.mark.parametrize(
        "damaged",
        [
            b"",
            b"[]",
            b'{"mediaType": "application',
            b'{"artifactType": "application/vnd.example.config", "a": ' + b"[" * 1000,
        ],
    )
    def test_with_a_damaged_descriptor_is_listed_and_repaired(self, registry, driver, damaged):
        pushed = push(registry, annotations={"a": "b"})
        (expected,) = registry.referrers.list(NAME, SUBJECT)
        path = layout.referrer(NAME, SUBJECT, pushed.descriptor.digest)
        stored = driver.get_content(path)
        for artifact_types in ((), {expected["artifactType"]}):
            driver.put_content(path, damaged)
            page = registry.referrers.page(NAME, SUBJECT, max_entries=1, artifact_types=artifact_types)
            assert [expected] == [json.loads(entry) for entry in page.entries]
            assert stored == driver.get_content(path)

    def test_of_a_source_is_listed_although_an_interrupted_push_left_its_descriptor(self, registry, driver):
        entry = {"mediaType": OCI_MANIFEST, "digest": str(push(registry).descriptor.digest), "size": 2}
        digest = Digest.parse(entry["digest"])
        driver.remove(layout.revision_link(NAME, digest))
        registry.sources.referrers.append(SimpleNamespace(list=lambda name, subject: {digest: entry}))
        assert (entry,) == registry.referrers.list(NAME, SUBJECT)

    def test_comes_in_the_order_of_digests(self, registry):
        digests = sorted(str(push(registry, number=number).descriptor.digest) for number in range(5))
        assert digests == [entry["digest"] for entry in registry.referrers.list(NAME, SUBJECT)]


class TestAFallbackTag:
    @pytest.fixture
    def child(self, registry, driver):
        """A manifest about the subject that was pushed before there was an API for it."""
        pushed = push(registry)
        driver.remove(layout.referrers(NAME, SUBJECT))
        return pushed.descriptor

    def keep(self, registry, *digests):
        entries = [{"mediaType": OCI_MANIFEST, "digest": str(digest), "size": 1} for digest in digests]
        payload = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
        registry.manifest_pushes.put(NAME, fallback_tag(SUBJECT), payload, OCI_INDEX)

    def test_is_adopted(self, registry, child):
        assert () == registry.referrers.list(NAME, SUBJECT)
        self.keep(registry, child.digest)
        (entry,) = registry.referrers.list(NAME, SUBJECT)
        assert (str(child.digest), child.size) == (entry["digest"], entry["size"])

    def test_adds_only_existing_referrers(self, registry, child):
        other = registry.manifest_pushes.put(NAME, Tag("other"), b'{"schemaVersion": 2, "manifests": []}', OCI_INDEX)
        self.keep(registry, Digest.of(b"missing"), other.descriptor.digest)
        assert () == registry.referrers.list(NAME, SUBJECT)

    def test_is_read_again_after_its_bytes_were_missing(self, registry, driver, child):
        self.keep(registry, child.digest)
        path = layout.blob_data(registry.tags.get(NAME, fallback_tag(SUBJECT)))
        index = driver.get_content(path)
        driver.remove(path)
        assert () == registry.referrers.list(NAME, SUBJECT)
        driver.put_content(path, index)
        assert 1 == len(registry.referrers.list(NAME, SUBJECT))

    def test_adds_nothing_twice(self, registry):
        pushed = push(registry)
        self.keep(registry, pushed.descriptor.digest)
        assert 1 == len(registry.referrers.list(NAME, SUBJECT))

    def test_is_named_after_the_digest(self):
        assert f"sha256-{SUBJECT.hex}" == str(fallback_tag(SUBJECT))
        assert f"sha512-{Digest.of(b'', 'sha512').hex[:64]}" == str(fallback_tag(Digest.of(b"", "sha512")))


def pages(registry, **query):
    """All pages of the list, one after the other."""
    found = [registry.referrers.page(NAME, SUBJECT, **{"max_entries": 1000, **query})]
    while found[-1].last is not None:
        found.append(registry.referrers.page(NAME, SUBJECT, **{"max_entries": 1000, **query, "last": found[-1].last}))
    return found


def digests(found):
    return [json.loads(entry)["digest"] for page in found for entry in page.entries]


class TestAPageOfReferrers:
    def test_is_below_four_megabytes(self, registry):
        pushed = {str(push(registry, annotations={str(n): "é" * 500_000}).descriptor.digest) for n in range(10)}
        found = pages(registry)
        assert sorted(pushed) == digests(found)
        assert 3 <= len(found)
        assert all(4 * 1024 * 1024 > sum(map(len, page.entries)) for page in found)

    def test_lists_entries_larger_than_a_page_without_annotations(self, registry):
        pushed = push(registry, annotations={"x": "y" * (4 * 1024 * 1024 - 700)})
        (entry,) = registry.referrers.list(NAME, SUBJECT)
        assert (str(pushed.descriptor.digest), False) == (entry["digest"], "annotations" in entry)

    @pytest.mark.parametrize("annotations", [{"x": [[]] * 500_000}, {"x": float("inf"), "y": "z" * 100_000}])
    def test_lists_entries_of_earlier_versions(self, registry, driver, annotations):
        pushed = push(registry, artifactType="application/x")
        path = layout.referrer(NAME, SUBJECT, pushed.descriptor.digest)
        (stored,) = registry.referrers.list(NAME, SUBJECT)  # they wrote what is served
        driver.put_content(path, json.dumps({**stored, "annotations": annotations}).encode())
        assert (stored,) == registry.referrers.list(NAME, SUBJECT)
        assert [str(pushed.descriptor.digest)] == digests(pages(registry, artifact_types={"application/x"}))

    def test_has_a_bounded_number_of_entries(self, registry):
        pushed = {str(push(registry, number=number).descriptor.digest) for number in range(5)}
        found = pages(registry, max_entries=2)
        assert [2, 2, 1] == [len(page.entries) for page in found]
        assert sorted(pushed) == digests(found)

    def test_of_one_type_reads_no_annotations_of_others(self, registry, reads):
        wanted = push(registry, artifactType="application/Wanted")
        for number in range(5):
            push(registry, artifactType="application/x", annotations={"a": "x" * 100_000, "b": str(number)})
        reads.clear()
        assert [str(wanted.descriptor.digest)] == digests(pages(registry, artifact_types={"application/wanted"}))
        assert 1 == len([path for path in +reads if "/_referrers/" in path])


class TestALongFallbackIndex(TestAFallbackTag):
    """Indexes name the same manifest again and again, or thousands that are not about the subject."""

    def test_reads_each_manifest_once(self, registry, child, reads):
        other = registry.manifest_pushes.put(NAME, Tag("other"), b'{"schemaVersion": 2, "manifests": []}', OCI_INDEX)
        self.keep(registry, *[child.digest] * 150, *[other.descriptor.digest] * 150)
        reads.clear()
        for _ in range(3):
            assert [str(child.digest)] == digests(pages(registry))
        assert [1, 1] == [reads[layout.blob_data(each.digest)] for each in (child, other.descriptor)]

    def test_records_manifests_permanently(self, registry, driver, child):
        self.keep(registry, child.digest)
        (entry,) = registry.referrers.list(NAME, SUBJECT)
        registry.removal.delete_manifest(NAME, fallback_tag(SUBJECT))
        assert (entry,) == registry.referrers.list(NAME, SUBJECT)

    def test_is_examined_page_by_page(self, registry, child):
        self.keep(registry, child.digest, *(Digest.of(str(number).encode()) for number in range(12_000)))
        found = pages(registry)
        assert ([str(child.digest)], 3) == (digests(found), len(found))

    def test_is_searched_for_one_type(self, registry, child):
        self.keep(registry, child.digest)
        assert [] == digests(pages(registry, artifact_types={"application/y"}))
        assert [str(child.digest)] == digests(pages(registry, artifact_types={"application/vnd.example.config"}))
