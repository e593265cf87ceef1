"""Rendering of settings: the effective ones without secrets, and all of them for the documentation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from docker_registry import drivers
from docker_registry.config import flavors
from docker_registry.config.render import reference, render
from docker_registry.config.schema import Config, load_config
from docker_registry.config.sections import Auth, Cache, Cors, Issuer, Mirroring
from docker_registry.settings import Setting, setting, settings_of

ROOT = Path(__file__).parent.parent.parent


class TestTheEffectiveConfiguration:
    def test_has_every_setting_with_its_type(self):
        shown = yaml.safe_load(render(Config(cors=Cors(origins=("a", "b")))))["dev"]

        for definition in settings_of(Config):
            value = shown
            for name in definition.name.split("."):
                value = value[name]
            assert value is None or isinstance(value, definition.type), definition.name
        assert ["a", "b"] == shown["cors"]["origins"]
        assert shown["standalone"] is True

    def test_names_its_file_and_flavor(self):
        assert render(Config(path=Path("/etc/registry.yml"), flavor="prod")).startswith(
            "# /etc/registry.yml, flavor prod\nprod:\n"
        )

    def test_has_the_settings_of_the_driver(self):
        config = Config(
            storage="shelf",
            driver_settings=(Setting("shelf_key", secret=True), Setting("shelf.wood"), Setting("shelf.path", Path)),
            driver_options={"shelf_key": "s3cret", "shelf_wood": "oak", "shelf_path": Path("/x")},
        )

        shown = yaml.safe_load(render(config))["dev"]

        assert ("********", {"wood": "oak", "path": "/x"}) == (shown["shelf_key"], shown["shelf"])

    def test_masks_the_secrets_of_a_list_of_sections(self):
        @dataclass(frozen=True)
        class Upstream:
            name: str = setting("", "Its name.")
            password: str | None = setting(None, "Its password.", secret=True)

        config = Config(
            storage="shelf",
            driver_settings=(Setting("upstreams", list, section=Upstream), Setting("hosts", dict)),
            driver_options={"upstreams": (Upstream("hub", "s3cret"),), "hosts": {"a": "https://u:s3cret@b"}},
        )

        shown = yaml.safe_load(render(config))["dev"]

        assert [{"name": "hub", "password": "********"}] == shown["upstreams"]
        assert {"a": "https://u:********@b"} == shown["hosts"]

    def test_can_be_loaded_as_a_file(self, tmp_path):
        issuer = Issuer(issuer="https://ci", audience="registry", match={"sub": "a/**"}, as_="ci:${sub}")
        config = Config(
            storage="memory",
            search_backend="0123",
            loglevel="debug",
            mirroring=Mirroring(source="true"),
            auth=Auth(oidc=(issuer,)),
        )
        path = tmp_path / "registry.yml"
        path.write_text(render(config))

        again = load_config({"DOCKER_REGISTRY_CONFIG": str(path)})

        for name in ("search_backend", "mirroring", "cors", "auth"):
            assert getattr(config, name) == getattr(again, name)


class TestASecret:
    @pytest.mark.parametrize(
        "config",
        [
            Config(cache=Cache(password="s3cret")),
            Config(bugsnag="s3cret"),
            Config(sqlalchemy_index_database="mysql://me:s3cret@h/db"),
            Config(sqlalchemy_index_database="mysql://me:s3c/s3cret@s3cret@h/db"),
            Config(sqlalchemy_index_database="postgresql://me@server:s3cret@h/db"),
            Config(sqlalchemy_index_database="postgresql://h/db?user=me&password=s3cret&sslmode=off"),
            Config(mirroring=Mirroring(source="https://:s3cret@h/")),
            Config(mirroring=Mirroring(source="https://the user:a s3cret of\ntwo lines@h/")),
            Config(sqlalchemy_index_database="postgresql://h/db?password=a s3cret&sslmode=off"),
            Config(cors=Cors(origins=("https://me:s3cret@h",))),
        ],
        ids=range(10),
    )
    def test_is_never_shown(self, config):
        shown = render(config)

        assert "s3cret" not in shown
        assert "********" in shown
        assert "s3cret" not in repr(config) + repr(config.cache) + repr(config.mirroring) + str(config)

    def test_leaves_the_rest_of_a_url_readable(self):
        text = render(Config(sqlalchemy_index_database="mysql://me:s3cret@h:3306/db?token=s3cret&x=1"))

        assert "mysql://me:********@h:3306/db?token=********&x=1" in text

    def test_is_not_detected_in_other_text(self):
        assert "********" not in render(Config())
        assert "http://h:5000/a?b=c" in render(Config(index_endpoint="http://h:5000/a?b=c"))
        assert "sqlite:////tmp/me@home:x.db" in render(Config(sqlalchemy_index_database="sqlite:////tmp/me@home:x.db"))


class TestTheDocumentation:
    def test_has_every_setting_as_its_row_says(self):
        sample = flavors.read(flavors.folder() / flavors.SAMPLE)
        declared = {name: drivers.load(name).settings for name in ("file", "memory")}

        tables = reference(declared, sample)

        # On a difference, put what stands in `tables` at the end of the file.
        assert tables in (ROOT / "docs/settings.md").read_text()

    @pytest.mark.parametrize(("driver", "page"), [("gcs", "google.md"), ("azureblob", "azure.md")])
    def test_has_every_setting_of_a_store_on_its_own_page(self, driver, page):
        sample = flavors.read(flavors.folder() / flavors.SAMPLE)
        _, _, table = reference({driver: drivers.load(driver).settings}, {driver: sample[driver]}).partition(
            f"### With `storage: {driver}`\n\n"
        )
        assert table
        assert table in (ROOT / "docs" / page).read_text()

    def test_shows_type_unit_default_variable_and_meaning(self):
        tables = reference({"shelf": [Setting("n", int, 3, "How many.", unit="rows", secret=True)], "none": []}, {})

        assert "| `loglevel` | `debug` `info` `warn` `warning` `error` `critical` | `info` |" in tables
        assert "| `n` | rows | `3` |  | How many. Secret. |" in tables
        assert "### With `storage: none`\n\nNo further settings.\n" in tables
