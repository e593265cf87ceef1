"""The settings of the registry and how their values are determined."""

from __future__ import annotations

import dataclasses
import logging
import re
import textwrap
from pathlib import Path

import pytest

from docker_registry.config import flavors
from docker_registry.config.schema import Config, load_config
from docker_registry.drivers.s3.driver import S3Driver
from docker_registry.errors import ConfigError
from docker_registry.settings import flatten, settings_of

#: A driver as somebody else would ship it: a module, and the line by which an installed package names it.
THIRD_PARTY = """
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.settings import Setting


class ShelfDriver(MemoryDriver):
    settings = (
        Setting("shelf_rows", int, 3, unit="rows", minimum=1),
        Setting("shelf_key", secret=True),
        Setting("shelf_labels", list, ()),
        Setting("shelf.wood", str, "oak"),
        Setting("shelf.locked", bool, False),
    )
"""
SAMPLE = flavors.read(flavors.folder() / flavors.SAMPLE)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "registry.yml"


@pytest.fixture
def load(path):
    def load(text, flavor="dev", /, **environ):
        path.write_text(textwrap.dedent(text))
        return load_config({"DOCKER_REGISTRY_CONFIG": str(path), "SETTINGS_FLAVOR": flavor, **environ})

    return load


@pytest.fixture
def refused(load, path):
    """Return the error that prevents the start, without the file and flavor at its beginning."""

    def refused(text, **environ):
        with pytest.raises(ConfigError) as caught:
            load(text, **environ)
        sentence = str(caught.value)
        assert "\n" not in sentence
        start, colon, rest = sentence.partition(": ")
        assert (f"{path}, flavor dev", ": ") == (start, colon)
        return rest

    return refused


@pytest.fixture
def shelf(tmp_path_factory, monkeypatch):
    """An installed third-party driver."""
    site = tmp_path_factory.mktemp("site")
    (site / "docker_registry_shelf.py").write_text(THIRD_PARTY)
    (site / "docker_registry_shelf-1.0.dist-info").mkdir()
    metadata = site / "docker_registry_shelf-1.0.dist-info"
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: docker-registry-shelf\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[docker_registry.drivers]\nshelf = docker_registry_shelf:ShelfDriver\n")
    monkeypatch.syspath_prepend(site)


class TestWithoutAnySetting:
    def test_everything_has_a_default(self, load):
        config = load("dev: {storage: memory}")

        assert Config(path=config.path, storage="memory") == config

    def test_the_registry_is_open_and_standalone(self):
        config = Config()

        assert (True, True, True, True) == (config.v1, config.v2, config.delete_tags, config.standalone)
        assert ("dev", "file", "info") == (config.flavor, config.storage, config.loglevel)
        assert (604800, 3600) == (config.upload_ttl, config.upload_purge_interval)
        assert (4194304, 1000) == (config.max_manifest_bytes, config.max_page_entries)
        assert (None, None, None) == (config.cache.host, config.mirroring.source, config.search_backend)
        assert not config.check_index_children

    def test_values_are_immutable(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            Config().v2 = False
        with pytest.raises(dataclasses.FrozenInstanceError):
            Config().cache.host = "elsewhere"


class TestASetting:
    def test_is_converted_to_its_type(self, load):
        config = load(
            """
            dev:
                storage: memory
                standalone: false
                upload_ttl: 60
                loglevel: WARN
                search_backend: 0123
                privileged_key: /etc/key.pem
                cors: {origins: [a, b], headers: []}
                cache: {port: 1, password: true}
            """
        )

        assert config.standalone is False
        assert (60, "warn", "0123") == (config.upload_ttl, config.loglevel, config.search_backend)
        assert Path("/etc/key.pem") == config.privileged_key
        assert (("a", "b"), ()) == (config.cors.origins, config.cors.headers)
        assert (1, "true") == (config.cache.port, config.cache.password)

    def test_is_converted_from_the_environment(self, load):
        text = """
            dev:
                storage: _env:STORAGE:memory
                standalone: _env:STANDALONE
                upload_ttl: _env:TTL:60
                sqlalchemy_index_database: _env:DB:sqlite:////tmp/x.db
                cors: {origins: "_env:ORIGINS", methods: [GET, "_env:METHOD"]}
                cache: {port: "_env:PORT", password: "_env:PASSWORD:#x"}
            """

        config = load(text, STANDALONE="false", PORT="7000", PASSWORD="0123", ORIGINS='["null", b]')

        assert config.standalone is False
        assert (7000, "0123") == (config.cache.port, config.cache.password)
        assert (60, "sqlite:////tmp/x.db") == (config.upload_ttl, config.sqlalchemy_index_database)
        assert (("null", "b"), ("GET",)) == (config.cors.origins, config.cors.methods)
        assert "#x" == load(text).cache.password

    @pytest.mark.parametrize("text", ["_env:X", '"_env:X:"', "~", "", '""'])
    def test_keeps_its_default_when_unset(self, load, text):
        config = load(f"common: {{loglevel: debug}}\ndev:\n    storage: memory\n    loglevel: {text}")

        assert "info" == config.loglevel

    @pytest.mark.parametrize("name", ["loglevel", "upload_ttl", "standalone", "privileged_key", "search_backend"])
    def test_keeps_its_default_when_its_variable_is_empty(self, load, name):
        config = load(f"dev:\n    storage: memory\n    {name}: _env:X:junk", X="")

        assert getattr(Config(), name) == getattr(config, name)

    def test_of_an_empty_section_keeps_its_default(self, load):
        assert Config().cache == load("common: {cache: {host: h}}\ndev: {storage: memory, cache: }").cache


#: The names in the section ``mirroring``.
MIRRORING = "source, source_index, tags_cache_ttl, hosts, default, own_names, offline, max_bytes, max_age, upstreams"


class TestAMistake:
    @pytest.mark.parametrize(
        ("expected", "text"),
        [
            ("there is no setting log_level; did you mean loglevel?", "log_level: debug"),
            ("there is no setting cache.hots; did you mean cache.host?", "cache: {hots: a}"),
            ("there is no setting smtp_hots; did you mean email_exceptions.smtp_host?", "smtp_hots: a"),
            ("there is no setting zzzzzzzzz", "zzzzzzzzz: a"),
            ("there is no setting zzzzzzzzz", "zzzzzzzzz:"),
            ("cache.password must be followed by a colon and a space", "cache: {password:s3cret}"),
            ("cache.password must be followed by a colon and a space", "cache: {password=s3cret}"),
            ("there is no setting None", "~: a"),
            (
                f"mirroring must be a section with {MIRRORING}",
                "mirroring: true",
            ),
            (
                f"mirroring must be a section with {MIRRORING}",
                "mirroring: [a]",
            ),
            ("standalone must be true or false", "standalone: maybe"),
            ("upload_ttl must be a whole number of seconds, such as 3600 or 1h, at least 1", "upload_ttl: 0"),
            (
                "upload_ttl must be a whole number of seconds, such as 3600 or 1h, at least 1, not a list",
                "upload_ttl: [1]",
            ),
            ("cache.port must be a whole number, at least 1", "cache: {port: redis}"),
            ("cache.port must be at most 65535", "cache: {port: 65536}"),
            ("audit_log contains a NUL character", r'audit_log: "a\0b"'),
            ("auth.token.jwks contains a NUL character", r'auth: {token: {jwks: "\0"}}'),
            ("bugsnag must be a text, not a section", "bugsnag: {key: a}"),
            ("cors.origins must be a list of texts", "cors: {origins: {a: b}}"),
            ("cors.origins must be a list of texts", f"cors: {{origins: '{'[' * 600}'}}"),
            ("cors.origins contains a space; entries are separated by commas", "cors: {origins: a b}"),
            *(
                (f"{name} contains a character that HTTP headers cannot contain", text)
                for name, text in (
                    ("cors.expose_headers", r'cors: {expose_headers: ["a\nb"]}'),
                    ("cors.methods", r'cors: {methods: "€"}'),
                    ("nginx_x_accel_redirect", r'nginx_x_accel_redirect: "/a\r"'),
                    ("registry_endpoints", r'registry_endpoints: "a\u0007"'),
                    ("auth.service", r'auth: {service: "a\nb"}'),
                )
            ),
            (
                "loglevel must be one of debug, info, warn, warning, error, critical",
                "loglevel: loud",
            ),
            ("v1 and v2 are both false: enable at least one API", "{v1: false, v2: false}"),
        ],
    )
    def test_stops_the_start_with_one_sentence(self, refused, expected, text):
        separator = "\n    <<: " if text.startswith("{") else "\n    "

        assert expected == refused(f"dev:\n    storage: memory{separator}{text}")

    def test_in_a_variable_is_reported_by_name_without_the_value(self, refused):
        sentence = refused("dev: {storage: memory, cache: {port: '_env:REDIS_PORT'}}", REDIS_PORT="s3cret")

        assert "cache.port (from REDIS_PORT) must be a whole number, at least 1" == sentence

    def test_is_answered_with_examples_that_are_accepted(self):
        for setting in (*settings_of(Config), *S3Driver.settings):
            if setting.unit in ("seconds", "bytes"):
                with pytest.raises(ValueError, match="such as") as caught:
                    setting.convert("?")
                one, other = re.findall(r"such as (\w+) or (\w+)", str(caught.value))[0]
                assert setting.convert(one) == setting.convert(other)

    @pytest.mark.parametrize("driver", ["s3", "swift", "azureblob", "gcs", "glance"])
    def test_of_encoding_in_a_text_for_a_server_is_reported(self, refused, load, driver):
        names = {"s3": "s3_secret_key", "azureblob": "azure_storage_container", "gcs": "gcs_bucket"}
        name = names.get(driver, "swift_password")
        assert f"{name} (from X) is not UTF-8" == refused(f"dev: {{storage: {driver}, {name}: '_env:X'}}", X="\udcff")
        if driver in ("swift", "glance"):
            load(f"dev: {{storage: {driver}, swift_cacert: '_env:X'}}", X="\udcff")

    def test_in_another_flavor_is_ignored(self, load):
        assert "memory" == load("dev: {storage: memory}\nprod: {storage: nowhere, odd: thing}").storage

    def test_keeps_no_secret_in_the_exception(self, load):
        with pytest.raises(ConfigError) as caught:
            load("dev: {storage: memory, upload_ttl: s3cret}")

        assert caught.value.__suppress_context__
        assert caught.value.__cause__ is None
        assert "s3cret" not in repr(caught.value)


class TestARetiredSetting:
    def test_is_ignored_with_one_warning(self, load, caplog, path):
        config = load(
            """
            common: {secret_key: s3cret, s3_bucket: REPLACEME, gs_secure: "_env:UNSET"}
            dev: {storage: memory, debug: true, boto_debug: "_env:AWS_DEBUG:0", cors: {resources: x}, issue: a}
            """
        )

        assert "memory" == config.storage
        ignored = (
            "secret_key (no cookies are sent), s3_bucket (the driver memory does not take it), "
            "debug (loglevel: debug tells more), boto_debug (loglevel: debug tells more), "
            "cors.resources (CORS works the same way everywhere), issue (no page shows it)"
        )
        sentence = f"{path}, flavor dev: ignored retired settings: {ignored}"
        assert [sentence] == [record.getMessage() for record in caplog.records]
        assert [logging.WARNING] == [record.levelno for record in caplog.records]

    def test_causes_no_warning_when_unset(self, load, caplog):
        load("dev: {storage: memory, debug: , boto_debug: '_env:AWS_DEBUG', s3_region: ~}")

        assert [] == caplog.records

    @pytest.mark.parametrize("name", ["smtp_host", "from_addr", "source", "source_index", "tags_cache"])
    def test_that_moved_names_its_new_place(self, load, caplog, name):
        load(f"dev: {{storage: memory, {name}: x}}")

        assert re.search(rf"{name} \(it is in the section (email_exceptions|mirroring)\)", caplog.text)

    def test_local_is_an_alias_of_file(self, load):
        assert "file" == load("dev: {storage: local}").storage


class TestADriver:
    def test_receives_what_it_declares_and_nothing_else(self, load, shelf):
        config = load(
            """
            common: {shelf_rows: 1}
            dev:
                storage: shelf
                shelf_rows: _env:ROWS
                shelf_key: "0123"
                shelf_labels: [a, b]
                shelf: {locked: yes}
            """,
            ROWS="7",
        )

        assert "shelf" == config.storage
        assert {
            "shelf_rows": 7,
            "shelf_key": "0123",
            "shelf_labels": ("a", "b"),
            "shelf_wood": "oak",
            "shelf_locked": True,
        } == config.driver_options

    def test_has_its_defaults(self, load, shelf):
        options = load("dev: {storage: shelf}").driver_options

        assert (3, None, (), "oak", False) == tuple(options.values())

    @pytest.mark.parametrize(
        ("expected", "text"),
        [
            ("there is no setting shelf_rwos; did you mean shelf_rows?", "shelf_rwos: 1"),
            ("shelf_rows must be a whole number of rows, at least 1", "shelf_rows: many"),
            ("shelf must be a section with wood, locked", "shelf: oak"),
        ],
    )
    def test_has_its_settings_checked(self, refused, shelf, expected, text):
        assert expected == refused(f"dev:\n    storage: shelf\n    {text}")

    def test_does_not_accept_the_settings_of_another(self, refused, shelf):
        assert "there is no setting shelf_rows" == refused("dev: {storage: memory, shelf_rows: 1}")

    def test_that_is_unknown_is_rejected_with_the_installed_ones(self, refused, shelf):
        sentence = refused("dev: {storage: shlef}")

        for word in ("shlef", "file", "memory", "shelf", "pip install"):
            assert word in sentence

    def test_receives_its_options_unchanged(self, load):
        with pytest.raises(TypeError):
            load("dev: {storage: memory}").driver_options["storage_path"] = "elsewhere"


class TestTheSample:
    @pytest.fixture
    def load(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        path = flavors.folder() / flavors.SAMPLE

        def load(flavor="", **environ):
            return load_config({"DOCKER_REGISTRY_CONFIG": str(path), "SETTINGS_FLAVOR": flavor, **environ})

        return load

    def test_runs_without_environment_variables_in_its_own_folder(self, load, tmp_path, caplog):
        config = load()

        assert ("dev", "file", "sqlalchemy") == (config.flavor, config.storage, config.search_backend)
        assert tmp_path / "registry-data" == Path(config.driver_options["storage_path"]).absolute()
        assert [] == caplog.records

    def test_otherwise_equals_the_defaults(self, load):
        config = load("memory")

        assert Config(flavor="memory", path=config.path, storage="memory") == config

    @pytest.mark.parametrize(
        ("expected", "flavor"), [("/var/lib/registry", "local"), ("/home/me/tmp/test", "test"), ("/srv", "dev")]
    )
    def test_sets_the_paths_of_files(self, load, monkeypatch, expected, flavor):
        monkeypatch.setenv("HOME", "/home/me")
        environ = {"STORAGE_PATH": "/srv"} if flavor == "dev" else {}

        assert Path(expected) == Path(load(flavor, **environ).driver_options["storage_path"]).expanduser()

    @pytest.mark.parametrize("flavor", SAMPLE)
    def test_has_flavors_that_start_or_name_the_missing_driver(self, load, flavor):
        storage = {**SAMPLE["common"], **SAMPLE[flavor]}.get("storage", "file")
        try:
            config = load(flavor)
        except ConfigError as error:
            assert storage not in ("file", "memory")
            assert re.fullmatch(rf"[^\n]*, flavor {flavor}: [^\n]*\b{storage}\b[^\n]*", str(error))
        else:
            assert storage == config.storage

    def test_has_every_setting_of_the_registry(self, load):
        names = [setting.name for setting in settings_of(Config)]
        there = {name for flavor in ("common", "memory") for name, _ in flatten(SAMPLE[flavor], names)}

        assert set(names) == there

    def test_has_every_flavor_and_variable_of_0_7_1(self):
        expected = """
            common local s3 gcs swift glance openstack glance-swift openstack-swift elliptics dev test prod
        """
        assert set(expected.split()) <= set(SAMPLE)

        variables = """
            LOGLEVEL STORAGE_REDIRECT STANDALONE INDEX_ENDPOINT DISABLE_TOKEN_AUTH PRIVILEGED_KEY SEARCH_BACKEND
            SQLALCHEMY_INDEX_DATABASE MIRROR_SOURCE MIRROR_SOURCE_INDEX MIRROR_TAGS_CACHE_TTL CACHE_REDIS_HOST
            CACHE_REDIS_PORT CACHE_REDIS_PASSWORD CACHE_LRU_REDIS_HOST CACHE_LRU_REDIS_PORT CACHE_LRU_REDIS_PASSWORD
            SMTP_HOST SMTP_PORT SMTP_LOGIN SMTP_PASSWORD SMTP_SECURE SMTP_FROM_ADDR SMTP_TO_ADDR BUGSNAG STORAGE_PATH
            AWS_REGION AWS_BUCKET AWS_ENCRYPT AWS_SECURE AWS_KEY AWS_SECRET GCS_BUCKET GCS_SECURE GCS_KEY GCS_SECRET
            GCS_OAUTH2 OS_AUTH_URL OS_CONTAINER OS_USERNAME OS_PASSWORD OS_TENANT_NAME OS_REGION_NAME
            GLANCE_STORAGE_ALTERNATE ELLIPTICS_NODES ELLIPTICS_GROUPS
        """
        text = (flavors.folder() / flavors.SAMPLE).read_text()
        assert set(variables.split()) <= set(re.findall(r"_env:(\w+)", text))
