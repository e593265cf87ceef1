"""The media types of manifests whose payload has none."""

from __future__ import annotations

import json

import pytest

from docker_registry.drivers.memory import MemoryDriver
from docker_registry.registry import layout
from docker_registry.registry.manifest_payload import DOCKER_MANIFEST, OCI_MANIFEST
from docker_registry.registry.names import Digest
from tests.registry.conftest import NAME
from tests.registry.test_manifests import LATEST, descriptor, image
from tests.support.registries import Registry


class InterruptedDriver(MemoryDriver):
    """Calls a function before one of its operations."""

    def __init__(self):
        super().__init__()
        self._left = -1
        self._interrupt = None

    def interrupt_at(self, operation, interrupt):
        """Call *interrupt* before the operation of this number, from 0; return what tells whether that has happened."""
        self._left, self._interrupt = operation, interrupt
        return lambda: self._interrupt is None

    def _operate(self):
        if self._interrupt is not None:
            self._left -= 1
            if self._left < 0:
                interrupt, self._interrupt = self._interrupt, None
                interrupt()

    def get_content(self, path):
        self._operate()
        return super().get_content(path)

    def put_content(self, path, content, *, if_match=None):
        self._operate()
        super().put_content(path, content, if_match=if_match)

    def exists(self, path):
        self._operate()
        return super().exists(path)

    def remove(self, path):
        self._operate()
        super().remove(path)


class TestAManifestWithoutAMediaType:
    def test_has_the_type_of_its_last_push(self, registry):
        payload = image(registry)
        for media_type in (DOCKER_MANIFEST, OCI_MANIFEST, DOCKER_MANIFEST):
            registry.manifest_pushes.put(NAME, LATEST, payload, media_type)
            assert media_type == registry.manifests.get(NAME, LATEST).descriptor.media_type

    def test_has_the_type_of_the_push_after_its_deletion(self, registry, driver):
        payload = image(registry)
        digest = registry.manifest_pushes.put(NAME, LATEST, payload, DOCKER_MANIFEST).descriptor.digest
        registry.removal.delete_manifest(NAME, digest)
        driver.put_content(layout.revision_link(NAME, digest), str(digest).encode())  # as another server pushes it
        assert OCI_MANIFEST == registry.manifests.get(NAME, digest).descriptor.media_type
        registry.manifest_pushes.put(NAME, LATEST, payload, OCI_MANIFEST)
        assert OCI_MANIFEST == registry.manifests.get(NAME, digest).descriptor.media_type

    def test_has_that_type_among_the_referrers_too(self, registry):
        subject = Digest.of(b"subject")
        payload = json.dumps({**json.loads(image(registry)), "subject": descriptor(b"subject")}).encode()
        for media_type in (DOCKER_MANIFEST, OCI_MANIFEST):
            registry.manifest_pushes.put(NAME, LATEST, payload, media_type)
            (entry,) = registry.referrers.list(NAME, subject)
            assert (media_type, str(Digest.of(payload))) == (entry["mediaType"], entry["digest"])
            assert not {"toldMediaType"} & entry.keys()


class TestPushesOfTwoTypes:
    """A manifest without mediaType that is pushed as two types, or deleted, at once."""

    @pytest.mark.parametrize("media_type", [DOCKER_MANIFEST, OCI_MANIFEST])
    @pytest.mark.parametrize("before", [None, DOCKER_MANIFEST, OCI_MANIFEST])
    @pytest.mark.parametrize("other", [None, DOCKER_MANIFEST, OCI_MANIFEST])
    def test_end_as_if_one_came_after_the_other(self, media_type, before, other):
        for moment in range(60):
            driver = InterruptedDriver()
            registry = Registry(driver)
            payload = image(registry)
            digest = Digest.of(payload)
            if before:
                registry.manifest_pushes.put(NAME, digest, payload, before)

            def interrupt(registry=registry, payload=payload, digest=digest):
                if other:
                    registry.manifest_pushes.put(NAME, digest, payload, other)
                elif registry.manifests.exists(NAME, digest):
                    registry.removal.delete_manifest(NAME, digest)

            was_interrupted = driver.interrupt_at(moment, interrupt)
            registry.manifest_pushes.put(NAME, digest, payload, media_type)
            if not was_interrupted():
                break
            if registry.manifests.exists(NAME, digest):
                found = registry.manifests.get(NAME, digest).descriptor.media_type
                assert found in {media_type, other}, moment
            else:
                assert other is None
        else:
            pytest.fail("a push takes more operations than expected")

    @pytest.mark.parametrize("media_type", [DOCKER_MANIFEST, OCI_MANIFEST])
    def test_keep_the_type_of_a_push_during_a_deletion(self, media_type):
        for moment in range(60):
            driver = InterruptedDriver()
            registry = Registry(driver)
            payload = image(registry)
            digest = registry.manifest_pushes.put(NAME, LATEST, payload, DOCKER_MANIFEST).descriptor.digest
            was_interrupted = driver.interrupt_at(
                moment,
                lambda pushes=registry.manifest_pushes, payload=payload: pushes.put(NAME, LATEST, payload, media_type),
            )
            registry.removal.delete_manifest(NAME, digest)
            if not was_interrupted():
                break
            if registry.manifests.exists(NAME, digest):
                assert media_type == registry.manifests.get(NAME, digest).descriptor.media_type, moment
        else:
            pytest.fail("a deletion takes more operations than expected")
