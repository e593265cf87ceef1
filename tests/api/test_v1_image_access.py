"""Images of API V1 in a registry with access control: they belong to the repositories that have them."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count

import pytest

from docker_registry.app import create_app
from docker_registry.config.schema import Config
from docker_registry.config.sections import Auth
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.registry.sources import Found
from docker_registry.services import build
from tests.support.access import PASSWORD, settings
from tests.support.clients.v2 import OCI_MANIFEST, digest_of
from tests.support.images import make_image
from tests.support.v1_images import Image, make

RULES = """rules:
  - {repositories: ["alice/**"], who: [alice], allow: [pull, push]}
  - {repositories: ["bob/**"], who: [bob], allow: [pull, push]}
  - {repositories: ["shared/**"], who: [alice, bob], allow: [pull]}
  - {repositories: ["public/**"], who: [anonymous], allow: [pull]}
  - {repositories: ["**"], who: [root], allow: [pull, push, overwrite, delete]}"""

_numbers = count(9500)


def fresh(parent=None):
    """Return an image that no other test has pushed."""
    return make(next(_numbers), parent)


class Docker:
    """A user's Docker, with a token of the index or its password everywhere."""

    def __init__(self, app, user, *, has_tokens=True):
        self._app, self._has_tokens, self._token = app, has_tokens, None
        self._auth = None if user is None else (user, PASSWORD + user)

    def ask(self, method, path, data=b"", **headers):
        auth = self._auth
        if self._token is not None:
            headers["Authorization"], auth = self._token, None
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._app.open(f"/v1/{path}", method=method, data=data, auth=auth, headers=names)

    def begin(self, method, path, data=b""):
        """Ask the index, and keep its token."""
        self._token = None
        answer = self.ask(method, path, data)
        if self._has_tokens:
            self._token = answer.headers.get("X-Docker-Token")
        return answer.status_code

    def send(self, image, layer=None, sums=None):
        path = f"images/{image.text}"
        answers = [
            self.ask("PUT", f"{path}/json", image.payload),
            self.ask("PUT", f"{path}/layer", image.layer if layer is None else layer),
            self.ask("PUT", f"{path}/checksum", X_Docker_Checksum_Payload=sums or image.payload_sum),
        ]
        return [answer.status_code for answer in answers]

    def push(self, name, *images):
        """Push images, the base first; those that the registry says it has are not sent."""
        listed = json.dumps([{"id": image.text} for image in images])
        assert 200 == self.begin("PUT", f"repositories/{name}", listed)
        for image in images:
            if self.ask("GET", f"images/{image.text}/json").status_code != 200:
                assert [200] * 3 == self.send(image)
        return self.ask("PUT", f"repositories/{name}/tags/v1", json.dumps(images[-1].text)).status_code

    def pull(self, name):
        """Return the layers of an image, the base first; the status where a request fails."""
        status = self.begin("GET", f"repositories/{name}/images")
        if status != 200:
            return status
        top = self.ask("GET", f"repositories/{name}/tags/v1").get_json()
        layers = []
        for text in reversed(self.ask("GET", f"images/{top}/ancestry").get_json()):
            answers = [self.ask("GET", f"images/{text}/{what}") for what in ("json", "layer")]
            failed = [answer.status_code for answer in answers if answer.status_code != 200]
            if failed:
                return failed[0]
            layers.append(answers[1].data)
        return layers


class World:
    """A registry with two users, each with a namespace."""

    def __init__(self, folder, driver, rules=RULES):
        settings(folder, rules)
        section = Auth(htpasswd=folder / "users", rules=folder / "rules.yml")
        self.services = build(Config(storage="memory", auth=section), driver)
        self.app = create_app(self.services).test_client()

    def docker(self, user, **options):
        return Docker(self.app, user, **options)

    def push_v2(self, name, image):
        auth = ("root", f"{PASSWORD}root")
        for content in (image.config, *image.layers):
            url = f"/v2/{name}/blobs/uploads/?digest={digest_of(content)}"
            assert 201 == self.app.post(url, data=content, auth=auth).status_code
        path = f"/v2/{name}/manifests/v1"
        assert 201 == self.app.put(path, data=image.manifest, content_type=OCI_MANIFEST, auth=auth).status_code

    def get_v2(self, user, path):
        return self.app.get(f"/v2/{path}", auth=(user, PASSWORD + user)).status_code


class Mirrored:
    """A source of one list of images."""

    def __init__(self, images):
        self._images = images

    def images(self, name, permitted):
        return Found(self._images)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("v1"), MemoryDriver())


with_both = pytest.mark.parametrize("has_tokens", [True, False], ids=["token", "password"])


class TestAPush:
    @with_both
    def test_to_a_namespace_of_ones_own_is_pulled_by_its_readers_only(self, world, has_tokens):
        base = fresh()
        top = fresh(base)
        name = f"alice/own-{has_tokens}".lower()
        assert 200 == world.docker("alice", has_tokens=has_tokens).push(name, base, top)
        assert [base.layer, top.layer] == world.docker("alice", has_tokens=has_tokens).pull(name)
        assert 403 == world.docker("bob", has_tokens=has_tokens).pull(name)
        bob = world.docker("bob")
        for image in (top, fresh()):  # one that is there, one that is not
            for what in ("json", "layer", "ancestry", "files", "diff"):
                assert 403 == bob.ask("GET", f"images/{image.text}/{what}").status_code
                assert 401 == world.docker(None).ask("GET", f"images/{image.text}/{what}").status_code
            assert 403 == bob.ask("PUT", f"images/{image.text}/json", image.payload).status_code

    @with_both
    def test_of_an_image_that_another_repository_has_must_bring_its_layer(self, world, has_tokens):
        image, number = fresh(), int(has_tokens)
        assert 200 == world.docker("alice").push(f"alice/{number}", image)
        bob = world.docker("bob", has_tokens=has_tokens)
        assert 200 == bob.begin("PUT", f"repositories/bob/{number}", json.dumps([{"id": image.text}]))
        tag = ("PUT", f"repositories/bob/{number}/tags/v1", json.dumps(image.text))
        assert 403 == bob.ask("GET", f"images/{image.text}/layer").status_code  # the id alone is no reason
        assert 403 == bob.ask(*tag).status_code
        other = fresh()
        assert 400 == bob.send(image, other.layer)[-1]
        assert 400 == bob.send(image, other.layer, sums=other.payload_sum)[-1]
        assert 403 == bob.ask(*tag).status_code
        assert [200] * 3 == bob.send(image)
        assert 200 == bob.ask(*tag).status_code
        assert [image.layer] == world.docker("bob", has_tokens=has_tokens).pull(f"bob/{number}")
        assert [image.layer] == world.docker("alice").pull(f"alice/{number}")

    def test_of_an_image_that_one_may_pull_elsewhere_needs_no_layer(self, world):
        image = fresh()
        assert 200 == world.docker("root").push("shared/base", image)
        top = fresh(image)
        bob = world.docker("bob")
        assert 200 == bob.push("bob/on-base", image, top)
        assert [image.layer, top.layer] == world.docker("bob").pull("bob/on-base")

    def test_of_an_image_needs_a_repository_that_lists_it_and_a_parent_that_one_may_pull(self, world):
        secret, image = fresh(), fresh()
        assert 200 == world.docker("alice").push("alice/parent", secret)
        bob = world.docker("bob")
        assert 403 == bob.ask("PUT", f"images/{image.text}/json", image.payload).status_code
        child = fresh(secret)
        assert 200 == bob.begin("PUT", "repositories/bob/child", json.dumps([{"id": child.text}]))
        assert 400 == bob.ask("PUT", f"images/{child.text}/json", child.payload).status_code
        assert 403 == bob.ask("PUT", f"images/{image.text}/json", image.payload).status_code


class TestAToken:
    def test_is_good_for_the_images_of_its_repository_only(self, world):
        one, two = fresh(), fresh()
        assert 200 == world.docker("root").push("alice/one", one)
        assert 200 == world.docker("root").push("alice/two", two)
        for user in ("alice", "root"):
            docker = world.docker(user)
            assert 200 == docker.begin("GET", "repositories/alice/one/images")
            assert 200 == docker.ask("GET", f"images/{one.text}/layer").status_code
            assert 403 == docker.ask("GET", f"images/{two.text}/layer").status_code
            assert 401 == docker.ask("PUT", f"images/{one.text}/json", one.payload).status_code


class TestAnImage:
    def test_of_a_public_repository_is_pulled_without_credentials(self, world):
        image = fresh()
        assert 200 == world.docker("root").push("public/web", image)
        assert [image.layer] == world.docker(None).pull("public/web")
        assert [image.layer] == world.docker(None, has_tokens=False).pull("public/web")

    def test_is_not_kept_by_caches_that_several_clients_share(self, world):
        image, docker = fresh(), world.docker("root")
        assert 200 == docker.push("alice/cached", image)
        answers = [docker.ask("GET", f"images/{image.text}/{what}") for what in ("json", "layer", "ancestry", "files")]
        assert {"private, max-age=31536000"} == {answer.headers["Cache-Control"] for answer in answers}

    def test_of_a_private_repository_is_pulled_by_those_whose_rules_allow_it(self, world):
        image = fresh()
        assert 200 == world.docker("root").push("alice/private", image)
        body = json.dumps({"access": "private"})
        assert 200 == world.docker("root").ask("PUT", "repositories/alice/private/properties", body).status_code
        assert [image.layer] == world.docker("alice").pull("alice/private")
        assert [image.layer] == world.docker("alice", has_tokens=False).pull("alice/private")

    def test_that_derives_from_api_v2_is_pulled_by_those_who_may_pull_there_and_pushed_by_none(self, world):
        image = make_image("derived")
        world.push_v2("alice/modern", image)
        assert len(image.layers) == len(world.docker("alice").pull("alice/modern"))
        docker = world.docker("alice")
        docker.begin("GET", "repositories/alice/modern/images")
        top = docker.ask("GET", "repositories/alice/modern/tags/v1").get_json()
        assert 403 == world.docker("bob").ask("GET", f"images/{top}/layer").status_code
        assert 200 == docker.begin("PUT", "repositories/alice/modern", json.dumps([{"id": top}]))
        other = Image(top, json.dumps({"id": top}).encode(), fresh().layer, (top,))
        assert [409, 404, 404] == docker.send(other)

    @pytest.mark.parametrize("way", ["tag", "parent", "intermediate", "early"])
    def test_that_derives_from_api_v2_is_not_given_away_to_those_who_know_its_id(self, world, way):
        image = make_image(f"secret {way}", layers=2 if way == "intermediate" else 1)
        secret, stolen = f"alice/secret-{way}", f"bob/stolen-{way}"
        world.push_v2(secret, image)
        alice, bob, known = world.docker("alice"), world.docker("bob"), digest_of(image.config).removeprefix("sha256:")
        if way == "early":  # no client of API V1 has asked for it yet
            assert 200 == bob.begin("PUT", f"repositories/{stolen}", json.dumps([{"id": known}]))
        assert 200 == alice.begin("PUT", f"repositories/{secret}", "[]")
        assert {"v1": known} == alice.ask("GET", f"repositories/{secret}/tags").get_json()
        if way == "intermediate":
            known = alice.ask("GET", f"images/{known}/ancestry").get_json()[-1]
            assert 200 == alice.ask("PUT", f"repositories/{secret}/tags/base", json.dumps(known)).status_code
            assert 200 == world.get_v2("alice", f"{secret}/manifests/base")
        forged = replace(fresh(), text=known, payload=json.dumps({"id": known}).encode(), ancestry=(known,))
        pushed = [forged, fresh(forged)] if way == "parent" else [forged]
        if way != "early":
            listed = json.dumps([{"id": each.text} for each in pushed])
            assert 200 == bob.begin("PUT", f"repositories/{stolen}", listed)
            assert [[200] * 3] * len(pushed) == [bob.send(each) for each in pushed]
        tag = bob.ask("PUT", f"repositories/{stolen}/tags/v1", json.dumps(pushed[-1].text))
        assert tag.status_code == (404 if way == "early" else 200)
        assert 404 == world.get_v2("root", f"{stolen}/manifests/v1")
        assert {404} == {world.get_v2("bob", f"{stolen}/blobs/{digest_of(layer)}") for layer in image.layers}

    def test_of_a_mirrored_repository_is_pulled_by_those_who_may_pull_there(self, world):
        image, pushed = fresh(), fresh()
        assert 200 == world.docker("root").push("bob/pushed", pushed)
        source = Mirrored(json.dumps([{"id": image.text}, {"id": pushed.text}, {"id": 5}, "x"]).encode())
        sources = world.services.require_legacy().sources
        sources.append(source)
        try:
            alice = world.docker("alice")
            assert 200 == alice.begin("GET", "repositories/alice/mirrored/images")
        finally:
            sources.remove(source)
        assert 200 == world.docker("root").push("bob/origin", image)  # stands for its transfer from the source
        assert 200 == alice.ask("GET", f"images/{image.text}/layer").status_code
        assert 403 == alice.ask("GET", f"images/{pushed.text}/layer").status_code  # the source cannot open it

    def test_of_a_deleted_repository_is_pulled_no_more(self, world):
        image = fresh()
        assert 200 == world.docker("root").push("alice/gone", image)
        alice = world.docker("alice", has_tokens=False)
        assert 200 == alice.ask("GET", f"images/{image.text}/layer").status_code
        assert 200 == world.docker("root").ask("DELETE", "repositories/alice/gone").status_code
        assert 403 == alice.ask("GET", f"images/{image.text}/layer").status_code


class TestAStoreThatWasOpen:
    def test_is_recorded_at_the_first_request_that_needs_it(self, tmp_path):
        driver, listed, tagged = MemoryDriver(), fresh(), fresh()
        for opened in range(2):
            app = create_app(build(Config(storage="memory"), driver)).test_client()
            docker = Docker(app, None)
            assert 200 == docker.push(f"alice/list-{opened}", listed)
            assert [200] * 3 == docker.send(tagged) or opened
            path = f"repositories/alice/tag-{opened}/tags/v1"
            assert 200 == docker.ask("PUT", path, json.dumps(tagged.text)).status_code
            world = World(tmp_path, driver)
            for has_tokens in (False, True):
                assert [listed.layer] == world.docker("alice", has_tokens=has_tokens).pull(f"alice/list-{opened}")
                assert [tagged.layer] == world.docker("alice", has_tokens=has_tokens).pull(f"alice/tag-{opened}")
                assert 403 == world.docker("bob").ask("GET", f"images/{tagged.text}/json").status_code
            if not opened:
                assert 403 == world.docker("bob").ask("GET", f"images/{listed.text}/json").status_code
                assert 200 == world.docker("root").push("bob/later", listed)
                assert [listed.layer] == world.docker("bob").pull("bob/later")

    def test_refuses_the_tokens_that_it_issued(self, tmp_path):
        driver, path = MemoryDriver(), "/v1/repositories/alice/open"
        app = create_app(build(Config(storage="memory"), driver)).test_client()
        token = app.put(path, data="[]").headers["X-Docker-Token"]
        assert 401 == World(tmp_path, driver).app.get(f"{path}/images", headers={"Authorization": token}).status_code

    def test_does_not_turn_claims_into_memberships(self, tmp_path):
        driver, image = MemoryDriver(), fresh()
        world = World(tmp_path, driver)
        assert 200 == world.docker("alice").push("alice/secret", image)
        bob = world.docker("bob")
        assert 200 == bob.begin("PUT", "repositories/bob/copy", json.dumps([{"id": image.text}]))
        for path in [stat.path for stat in driver.walk("") if stat.path.endswith("memberships-are-complete")]:
            driver.remove(path)
        world = World(tmp_path, driver)
        assert 403 == world.docker("bob").ask("GET", f"images/{image.text}/layer").status_code
        assert [image.layer] == world.docker("alice").pull("alice/secret")
