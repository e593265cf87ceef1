"""``docker-registry private``: hiding a repository can be undone."""

from __future__ import annotations

import json

import pytest

from docker_registry.cli import main
from docker_registry.drivers.file import FileDriver
from docker_registry.registry.names import ImageRepositoryName
from tests.support.registries import Registry


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store with three private repositories, and a configuration that names it."""
    config = tmp_path / "config.yml"
    config.write_text(f"dev: {{storage: file, storage_path: {tmp_path / 'store'}}}")
    monkeypatch.setenv("DOCKER_REGISTRY_CONFIG", str(config))
    monkeypatch.delenv("SETTINGS_FLAVOR", raising=False)
    registry = Registry(FileDriver(str(tmp_path / "store")))
    for text in ("acme/secret", "foo", "Acme/Capital"):
        registry.private_images.set_private(ImageRepositoryName.parse(text), private=True)
    return tmp_path / "store"


def private(store):
    return Registry(FileDriver(str(store))).private_repositories.canonical_names()


class TestThePrivateCommand:
    def test_lists_by_the_names_of_v2(self, store, capsys):
        assert 0 == main(["private", "list"])
        assert ["Acme/Capital", "acme/secret", "foo"] == capsys.readouterr().out.splitlines()
        assert 0 == main(["private", "list", "--json"])
        assert {"repositories": ["Acme/Capital", "acme/secret", "foo"]} == json.loads(capsys.readouterr().out)

    @pytest.mark.parametrize("name", ["foo", "library/foo"])
    def test_makes_one_public_by_either_name(self, store, capsys, name):
        assert 0 == main(["private", "clear", name])
        assert f"{name} is public\n" == capsys.readouterr().out
        assert ["Acme/Capital", "acme/secret"] == private(store)

    def test_reports_as_json(self, store, capsys):
        assert 0 == main(["private", "clear", "acme/secret", "--json"])
        assert {"cleared": ["acme/secret"]} == json.loads(capsys.readouterr().out)

    @pytest.mark.parametrize("name", ["acme/web", "acme/..", ""])
    def test_rejects_a_repository_that_is_not_private(self, store, capsys, name, tmp_path):
        config = tmp_path / "config.yml"
        config.write_text(config.read_text().replace("}", f", audit_log: {tmp_path / 'audit.log'}}}"))
        assert 2 == main(["private", "clear", name])
        assert not any(path.read_text() for path in tmp_path.glob("audit.log"))
        out, err = capsys.readouterr()
        assert ("", 1) == (out, len(err.splitlines()))
        assert 3 == len(private(store))

    @pytest.mark.parametrize("arguments", [[], ["clear"], ["list", "x"], ["hide", "x"]])
    def test_rejects_wrong_usage(self, store, arguments):
        with pytest.raises(SystemExit) as stopped:
            main(["private", *arguments])
        assert 2 == stopped.value.code

    def test_lists_nothing_if_nothing_is_private(self, store, capsys):
        for name in private(store):
            main(["private", "clear", name])
        capsys.readouterr()
        assert 0 == main(["private", "list"])
        assert "" == capsys.readouterr().out
