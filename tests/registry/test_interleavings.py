"""
Two requests at once end as one of their orders would.

Every pair of requests runs under every schedule with at most two switches between its calls of the store; the state in
the end must be that of a serial order of those requests that were acknowledged.
"""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import combinations_with_replacement, count, product

import pytest

from docker_registry.drivers.file import FileDriver
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import (
    ImageRepositoryUnknown,
    ImagesUnknown,
    ImageTagUnknown,
    ManifestUnknown,
)
from docker_registry.registry.ingest import Content
from docker_registry.registry.manifest_payload import OCI_MANIFEST
from docker_registry.registry.names import Digest, ImageRepositoryName, RepositoryName, Tag
from tests.registry.bridge.both import descriptor, layer, make_v2, put_blob
from tests.support.interleaving import ALL, Request, Schedule, StoppingDriver, copied, sample, schedules
from tests.support.registries import Registry
from tests.support.v1_images import chain, push

NAME, OTHER = RepositoryName.parse("acme/web"), RepositoryName.parse("acme/other")
V1_NAME = ImageRepositoryName.parse("acme/web")
LATEST, STAYS = Tag("latest"), Tag("stays")
TAGS = (LATEST, STAYS, Tag("second"))
ONE, TWO = chain(2)
MOUNTED, UPLOADED = Digest.of(b"mounted"), Digest.of(b"uploaded")

_scratch = Registry(MemoryDriver())
OLD, NEW, SUBJECT = (make_v2(_scratch, layer(number)) for number in (1, 2, 3))
REFERRER = json.dumps(
    {
        **json.loads(SUBJECT),
        "artifactType": "application/vnd.example.signature",
        "subject": descriptor(OCI_MANIFEST, SUBJECT),
    }
).encode()


@dataclass(frozen=True)
class Prepared:
    """
    A store before the requests.

    Attributes:
        upload: the id of a session to commit.
        old_image: the image of V1 that the manifest OLD is.
    """

    driver: MemoryDriver
    upload: str
    old_image: object


@cache
def prepare(before: str) -> Prepared:
    """Fill a store; *before* names the APIs that wrote the tag ``latest``, in their order."""
    driver = MemoryDriver()
    registry = open_registry(driver)
    push(registry, ONE, TWO)
    for number in (1, 2, 3):
        make_v2(registry, layer(number))
    for payload, tag in ((OLD, Tag("unused")), (SUBJECT, STAYS)):
        registry.manifest_pushes.put(NAME, tag, payload, None)
    old_image = registry.image_tags.get(V1_NAME, Tag("unused"))
    registry.removal.delete_manifest(NAME, Tag("unused"))
    registry.manifest_pushes.put(NAME, Digest.of(REFERRER), REFERRER, None)
    for image in (ONE, TWO):  # so that no request has to make its manifest, and another to wait for it
        registry.image_tag_pushes.put(V1_NAME, STAYS, image.id, {"docker_version": "0"})
        assert registry.manifests.get(NAME, STAYS)
    for api in before.split():
        if api == "v1":
            registry.image_tag_pushes.put(V1_NAME, LATEST, ONE.id, {"docker_version": "before"})
        else:
            registry.manifest_pushes.put(NAME, LATEST, OLD, None)
    put_blob(registry, b"mounted", OTHER)
    upload = registry.uploads.start(NAME).id
    registry.uploads.append(NAME, upload, Content(b"uploaded"), 0, 8)
    return Prepared(driver, upload, old_image)


def open_registry(driver, **settings):
    return Registry(driver, now=lambda: 1400000000.0, **settings)


#: Each is called with a registry of its own and the prepared store.
REQUESTS = {
    "put new": lambda registry, _: registry.manifest_pushes.put(NAME, LATEST, NEW, None),
    "put old": lambda registry, _: registry.manifest_pushes.put(NAME, LATEST, OLD, None),
    "put old by digest": lambda registry, _: registry.manifest_pushes.put(NAME, Digest.of(OLD), OLD, None),
    "put old twice": lambda registry, _: registry.manifest_pushes.put(NAME, LATEST, OLD, None, (Tag("second"),)),
    "delete tag": lambda registry, _: registry.removal.delete_manifest(NAME, LATEST),
    "delete old": lambda registry, _: registry.removal.delete_manifest(NAME, Digest.of(OLD)),
    "put referrer": lambda registry, _: registry.manifest_pushes.put(NAME, Digest.of(REFERRER), REFERRER, None),
    "delete referrer": lambda registry, _: registry.removal.delete_manifest(NAME, Digest.of(REFERRER)),
    "mount": lambda registry, _: registry.blobs.mount(NAME, MOUNTED, OTHER),
    "commit": lambda registry, prepared: registry.uploads.commit(NAME, prepared.upload, UPLOADED, Content(b"")),
    "v1 put one": lambda registry, _: registry.image_tag_pushes.put(V1_NAME, LATEST, ONE.id, {"docker_version": "1"}),
    "v1 put two": lambda registry, _: registry.image_tag_pushes.put(V1_NAME, LATEST, TWO.id, {"docker_version": "2"}),
    "v1 put old": lambda registry, prepared: registry.image_tag_pushes.put(
        V1_NAME, LATEST, prepared.old_image, {"docker_version": "3"}
    ),
    "v1 delete tag": lambda registry, _: registry.image_tags.delete(V1_NAME, LATEST),
    "v1 delete repository": lambda registry, _: registry.image_tags.delete_repository(V1_NAME),
}
BEFORE = ("v2", "v1", "v1 v2", "")
PAIRS = list(combinations_with_replacement(REQUESTS, 2))


def state(driver):
    """Return all that clients can see."""
    registry = open_registry(driver)
    found = {"catalog": registry.repositories.page(100).names, "listed": registry.tags.list(NAME)}
    for reference in (*TAGS, *(Digest.of(payload) for payload in (OLD, NEW, SUBJECT, REFERRER))):
        found[str(reference)] = _digest(registry, reference)
    for digest in (MOUNTED, UPLOADED):
        found[f"blob {digest}"] = registry.blobs._driver.exists(
            f"docker/registry/v2/repositories/{NAME}/_layers/{digest.algorithm}/{digest.hex}/link"
        )
    found["referrers"] = [entry["digest"] for entry in registry.referrers.list(NAME, Digest.of(SUBJECT))]
    found["v1 repository"] = registry.image_repositories.exists(V1_NAME)
    try:
        found["v1 tags"] = registry.image_tags.list(V1_NAME)
    except ImageRepositoryUnknown:
        found["v1 tags"] = None
    for tag in (LATEST, STAYS):
        try:
            found[f"v1 note of {tag}"] = registry.image_tags.get_json(V1_NAME, tag)
        except ImageTagUnknown:
            pass
    found["v1 note"] = registry.image_tags.get_repository_json(V1_NAME)
    try:
        found["v1 images"] = json.loads(registry.image_tags.list_images(V1_NAME))
    except ImagesUnknown:
        pass
    return found


def _digest(registry, reference):
    try:
        return str(registry.manifests.get(NAME, reference).descriptor.digest)
    except ManifestUnknown:
        return None


class Pair:
    """Two requests, and what may come of them."""

    def __init__(self, names, before, copy=copied, **settings):
        self.names = names
        self.prepared = prepare(before)
        self._copy = copy
        self._settings = settings
        self._states = {}
        self._seen = {}

    def begin(self):
        """Return a store and the two requests, each in a registry of its own as in workers of their own."""
        driver = self._copy(self.prepared.driver)
        stopping = StoppingDriver(driver)
        requests = [self._request(stopping, name) for name in self.names]
        return driver, requests

    def _request(self, driver, name):
        registry = open_registry(driver, **self._settings)
        return Request(lambda: REQUESTS[name](registry, self.prepared))

    def serial(self, order):
        """Return the state after some of the requests, one after the other."""
        if order not in self._states:
            driver, requests = self.begin()
            for number in order:
                requests[number].advance()
            self._states[order] = self._state(driver)
        return self._states[order]

    def _state(self, driver):
        """Return all that clients can see; stores of the same content are looked at once."""
        if not isinstance(driver, MemoryDriver):
            return state(driver)
        content = frozenset((path, stored[0]) for path, stored in driver._files.items())
        if content not in self._seen:
            self._seen[content] = state(driver)
        return self._seen[content]

    @property
    def counts(self):
        """How many calls each request makes at most, alone, after the other and after its first half."""
        counts = [1, 1]
        for order in ((0, 1), (1, 0)):
            _, requests = self.begin()
            for number in order:
                requests[number].advance()
                counts[number] = max(counts[number], requests[number].calls)
        return counts[0] + 3, counts[1] + 3

    def fault(self, schedule: Schedule):
        """
        Return what is wrong after a schedule; None when nothing is.

        A push that loses an immutable tag to another one is refused, and may leave its manifest without a tag.
        """
        driver, requests = self.begin()
        schedule.run(requests)
        acknowledged = tuple(number for number in (0, 1) if requests[number].error is None)
        orders = {acknowledged, acknowledged[::-1]}
        found = self._state(driver)
        ignored = {str(Digest.of(NEW)), str(Digest.of(OLD))} if self._settings and len(acknowledged) == 1 else set()
        if any(_without(found, ignored) == _without(self.serial(order), ignored) for order in orders):
            return None
        expected = self.serial(acknowledged)
        difference = {
            key: (found.get(key), expected.get(key))
            for key in {*found, *expected}
            if found.get(key) != expected.get(key)
        }
        return schedule, [self.names[number] for number in acknowledged], difference


def _without(found, ignored):
    return {key: value for key, value in found.items() if key not in ignored}


def faults(pair, chosen):
    return [fault for schedule in chosen if (fault := pair.fault(schedule)) is not None]


@pytest.mark.parametrize("names", PAIRS, ids=" + ".join)
class TestTwoRequests:
    def test_end_as_one_after_the_other(self, names):
        number = PAIRS.index(names)
        for before in (BEFORE[number % 4], BEFORE[(number + 1 + number // 4) % 4]):
            pair = Pair(names, before)
            chosen = sample(list(schedules(pair.counts)), 5, f"{names} {before}")
            found = faults(pair, chosen)
            assert not found, (before, len(found), len(chosen), found[0])

    @pytest.mark.slow
    @pytest.mark.parametrize("before", BEFORE)
    def test_end_so_under_every_schedule(self, names, before):
        pair = Pair(names, before)
        chosen = list(schedules(pair.counts))
        found = faults(pair, chosen)
        assert not found, (len(found), len(chosen), found[0])


def test_a_note_of_v1_stays_with_its_tag_under_every_schedule():
    pair = Pair(("v1 put two", "v1 delete tag"), "v1 v2")
    assert not faults(pair, list(schedules(pair.counts)))


def test_two_puts_leave_a_tag_that_is_deleted_with_its_manifest_only():
    """They do not depend on the target of the tag, so they are no compare-and-swap."""
    for before in ("v2", ""):
        pair = Pair(("put new", "put old"), before)
        for schedule in sample(list(schedules(pair.counts)), 20, before):
            driver, requests = pair.begin()
            schedule.run(requests)
            registry = open_registry(driver)
            target = registry.tags.get(NAME, LATEST)
            (other,) = {Digest.of(NEW), Digest.of(OLD)} - {target}
            registry.removal.delete_manifest(NAME, other)
            assert target == registry.tags.get(NAME, LATEST), schedule
            registry.removal.delete_manifest(NAME, target)
            assert _digest(registry, LATEST) is None, schedule


@pytest.mark.parametrize("pages", [False, True])
def test_two_puts_and_a_deletion_of_a_new_referrer_leave_it_with_its_entry_or_not_at_all(pages):
    """The first put stops once, the second one runs to its end, and the deletion stops once before the first ends."""
    for calls, deletion_calls in product(range(5, 12), range(12, 28)):
        driver = copied(prepare("").driver)
        driver.capabilities = replace(driver.capabilities, pages=pages)
        open_registry(driver).removal.delete_manifest(NAME, Digest.of(REFERRER))
        for path in [each.path for each in driver.walk() if Digest.of(REFERRER).hex in each.path]:
            driver.remove(path)  # as if it had never been pushed
        names = ("put referrer", "put referrer", "delete referrer")
        stopping = StoppingDriver(driver)
        first, second, deletion = (Request(partial(REQUESTS[name], open_registry(stopping), None)) for name in names)
        first.advance(calls + 1)
        second.advance()
        deletion.advance(deletion_calls + 1)
        first.advance()
        deletion.advance()
        found = state(driver)
        is_there = found[str(Digest.of(REFERRER))] is not None
        assert is_there == bool(found["referrers"]), (calls, deletion_calls)


@pytest.mark.parametrize(
    "names",
    [
        ("put new", "put old"),
        ("put new", "v1 put one"),
        ("put old", "delete old"),
        ("put old by digest", "delete old"),
        ("v1 put one", "v1 put two"),
        ("v1 put one", "v1 put old"),
        ("put new", "v1 delete repository"),
    ],
    ids=" + ".join,
)
class TestTwoRequestsForAnImmutableTag:
    def test_have_at_most_one_winner(self, names):
        pair = Pair(names, "", immutable_tags=("latest",))
        chosen = sample(list(schedules(pair.counts)), 100, f"{names}")
        found = faults(pair, chosen)
        assert not found, (len(found), len(chosen), found[0])


#: Pairs that lose most easily, with what was written before: they run on other stores too.
CORE = (
    (("put new", "delete old"), "v2"),
    (("put old", "delete old"), "v2"),
    (("put old twice", "delete old"), "v2"),
    (("put referrer", "delete referrer"), "v2"),
    (("put old", "delete tag"), "v1 v2"),
    (("delete old", "v1 put two"), "v1 v2"),
    (("v1 put two", "v1 delete tag"), "v1"),
    (("delete old", "v1 delete repository"), "v1 v2"),
    (("v1 put two", "v1 delete repository"), "v1 v2"),
)


def filled(driver, source):
    """Fill an empty store with the content of another one."""
    for path, (content, _) in source._files.items():
        driver.put_content(path, content)
    return driver


@pytest.mark.parametrize(
    ("names", "before"), CORE, ids=lambda value: value if isinstance(value, str) else " + ".join(value)
)
class TestTwoRequestsOnAnotherStore:
    """Where one request stops at any of its calls, and the other one runs to its end."""

    def chosen(self, names, before, size):
        boundary = [each for each in schedules(Pair(names, before).counts) if each.other_calls == ALL]
        return random.Random(f"{names}").sample(boundary, min(size, len(boundary)))

    @pytest.mark.parametrize("size", [6, pytest.param(1000, marks=pytest.mark.slow)])
    def test_end_as_one_after_the_other_in_a_folder(self, names, before, size, tmp_path):
        template = tmp_path / "template"
        filled(FileDriver(str(template)), prepare(before).driver)
        number = count()

        def copy(_):
            folder = tmp_path / str(next(number))
            shutil.copytree(template, folder)
            return FileDriver(str(folder))

        assert not faults(Pair(names, before, copy), self.chosen(names, before, size))

    @pytest.mark.parametrize("size", [6, pytest.param(1000, marks=pytest.mark.slow)])
    def test_end_as_one_after_the_other_where_each_call_is_a_request(self, names, before, size):
        def copy(source):
            driver = MemoryDriver()
            driver._files = dict(source._files)
            driver.capabilities = replace(driver.capabilities, pages=True)
            return driver

        assert not faults(Pair(names, before, copy), self.chosen(names, before, size))

    @pytest.mark.slow
    def test_end_as_one_after_the_other_in_a_bucket(self, names, before, seaweedfs):
        pytest.importorskip("boto3", reason="boto3 is not installed")
        from docker_registry.drivers.s3.driver import S3Driver

        number = count()

        def copy(source):
            path = f"/{'-'.join(names)}-{before}-{next(number)}".replace(" ", "-")
            return filled(S3Driver(**{**seaweedfs.options(), "storage_path": path}), source)

        assert not faults(Pair(names, before, copy), self.chosen(names, before, 8))
