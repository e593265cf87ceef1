"""The configuration file: its location, its syntax and its flavors."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from docker_registry.config import flavors
from docker_registry.config.unused_variables import unused_variables
from docker_registry.errors import ConfigError

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def path(tmp_path):
    return tmp_path / "registry.yml"


@pytest.fixture
def read(path):
    def read(text, flavor="dev", **environ):
        path.write_text(textwrap.dedent(text))
        return flavors.read_flavor({"DOCKER_REGISTRY_CONFIG": str(path), "SETTINGS_FLAVOR": flavor, **environ})

    return read


@pytest.fixture
def refused(read):
    def refused(text, flavor="dev", **environ):
        with pytest.raises(ConfigError) as caught:
            read(text, flavor, **environ)
        return str(caught.value)

    return refused


class TestAVariable:
    def test_without_effect_is_named(self, tmp_path):
        """With a typing error, or not in the file; Kubernetes sets others for a service called registry."""
        (tmp_path / "own.yml").write_text("dev: {mirroring: {upstreams: [{password: '_env:REGISTRY_MY_PASSWORD'}]}}")
        others = {"REGISTRY_PORT_5000_TCP": "tcp://10.0.0.1", "REGISTRY_SERVICE_HOST": "10.0.0.1", "REGISTRY_V1": ""}
        environ = {"REGISTRY_HOST": "::1", "STORAGE_PATH": "/srv", "REGISTRY_AUTH_RULES": "a", **others}
        assert [] == unused_variables(environ)
        assert [
            "REGISTRY_AUTH_HTPASWD has no effect: there is no such variable; did you mean REGISTRY_AUTH_HTPASSWD?",
            "REGISTRY_LOG_LEVEL has no effect: there is no such variable",
        ] == unused_variables({**environ, "REGISTRY_AUTH_HTPASWD": "b", "REGISTRY_LOG_LEVEL": "info"})
        environ |= {"REGISTRY_MY_PASSWORD": "c", "DOCKER_REGISTRY_CONFIG": str(tmp_path / "own.yml")}
        assert ["REGISTRY_AUTH_RULES", "STORAGE_PATH"] == [each.split()[0] for each in unused_variables(environ)]
        with (tmp_path / "own.yml").open("a") as file:
            file.write("\nother: {storage: '_env:STORE:file'}")
        sentence = f"has no effect: {tmp_path}/own.yml, flavor other, does not contain _env:"
        names = ("REGISTRY_AUTH_RULES", "REGISTRY_MY_PASSWORD", "STORAGE_PATH")
        other = unused_variables({**environ, "SETTINGS_FLAVOR": "other"})
        assert [f"{name} {sentence}{name}" for name in names] == other

    def test_beside_a_file_of_distribution_is_reported_once(self, path, caplog):
        path.write_text("version: 0.1\nstorage: {inmemory: {}}")
        environ = {"DOCKER_REGISTRY_CONFIG": str(path), "REGISTRY_STORAG": "a"}
        flavors.read_flavor(environ)
        assert [] == unused_variables(environ)
        (message,) = caplog.messages
        assert "REGISTRY_STORAG (an unknown variable)" in message


class TestTheFile:
    def test_is_the_one_that_the_environment_names(self, path):
        assert path == flavors.locate({"DOCKER_REGISTRY_CONFIG": str(path)})

    def test_has_a_relative_path_in_the_folder_of_the_sample(self):
        assert ROOT / "config" / "mine.yml" == flavors.locate({"DOCKER_REGISTRY_CONFIG": "mine.yml"})

    def test_may_be_in_the_home_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))

        assert tmp_path / "mine.yml" == flavors.locate({"DOCKER_REGISTRY_CONFIG": "~/mine.yml"})

    @pytest.mark.parametrize("environ", [{}, {"DOCKER_REGISTRY_CONFIG": ""}])
    def test_is_config_yml_if_it_exists_else_the_sample(self, clone, environ):
        assert f"{clone}/config/config_sample.yml" == located(clone, environ)

        (clone / "config/config.yml").write_text("dev:\n")

        assert f"{clone}/config/config.yml" == located(clone, environ)

    def test_that_is_missing_stops_the_start(self, path):
        with pytest.raises(ConfigError) as caught:
            flavors.read_flavor({"DOCKER_REGISTRY_CONFIG": str(path)})
        assert f"{path} cannot be read: No such file or directory (DOCKER_REGISTRY_CONFIG chooses the file)" == str(
            caught.value
        )

    def test_that_is_a_folder_stops_the_start(self, tmp_path):
        with pytest.raises(ConfigError) as caught:
            flavors.read_flavor({"DOCKER_REGISTRY_CONFIG": str(tmp_path)})
        assert f"{tmp_path} cannot be read: Is a directory (DOCKER_REGISTRY_CONFIG chooses the file)" == str(
            caught.value
        )


@pytest.fixture
def clone(tmp_path):
    """A clone with a writable config folder."""
    for name in ("docker_registry", "config"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "config.yml"))
    for name in ("setup.py", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def located(folder, environ, **variables):
    """Return the configuration path that a process started in a folder finds."""
    program = f"from docker_registry.config.flavors import locate; print(locate({environ}))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


class TestAFlavor:
    def test_defaults_to_dev(self, read):
        assert "dev" == read("dev: {a: b}", "").name

    def test_overrides_common(self, read):
        assert {"a": "1", "b": "3", "c": "4"} == read("common: {a: 1, b: 2}\ndev: {b: 3, c: 4}").tree

    def test_is_merged_by_section_and_replaces_lists(self, read):
        tree = read("common: {s: {x: 1, y: 2}, l: [1, 2]}\ndev: {s: {y: 3}, l: [4]}").tree

        assert {"s": {"x": "1", "y": "3"}, "l": ["4"]} == tree

    def test_unsets_a_value_of_common_with_null(self, read):
        assert {"s": None, "a": None} == read("common: {s: {x: 1}, a: b}\ndev: {s: ~, a: }").tree

    def test_may_be_empty(self, read):
        assert {"a": "b"} == read("common: {a: b}\ndev:\n").tree

    def test_needs_no_common(self, read):
        assert {"a": "b"} == read("dev: {a: b}").tree

    def test_may_use_anchors_only(self, read):
        tree = read(
            """
            common: &common
                loglevel: info
                cache: &cache {host: h}
            local: &local
                <<: *common
                storage: local
            dev:
                <<: *local
                loglevel: debug
                cache: {<<: *cache, port: 1}
            """
        ).tree

        assert {"loglevel": "debug", "storage": "local", "cache": {"host": "h", "port": "1"}} == tree

    def test_may_merge_several_anchors(self, read):
        assert {"a": "1", "b": "2"} == read("x: &x {a: 1}\ny: &y {a: 0, b: 2}\ndev: {<<: [*x, *y]}").tree

    def test_that_is_unknown_is_rejected_with_suggestions(self, refused, path):
        expected = f"{path} has no flavor prd (SETTINGS_FLAVOR; there is common, prod); did you mean prod?"

        assert expected == refused("common: {}\nprod: {}", "prd")

    @pytest.mark.parametrize("text", ["", "just text", "- a\n- b", "storage: file"])
    def test_cannot_be_in_a_file_without_sections(self, refused, path, text):
        there = "none: flavors are sections at the outermost level of the file"

        assert f"{path} has no flavor dev (SETTINGS_FLAVOR; there is {there})" == refused(text)


class TestAScalar:
    @pytest.mark.parametrize(
        "text", ["0123", "no", "on", "1_000", "0x10", "12:30:45", "2020-01-01", "1e3", ".inf", "="]
    )
    def test_keeps_its_exact_characters(self, read, text):
        assert {"a": text} == read(f"dev:\n    a: {text}").tree

    @pytest.mark.parametrize("text", ["~", "null", "Null", ""])
    def test_may_be_null(self, read, text):
        assert {"a": None} == read(f"dev:\n    a: {text}").tree

    @pytest.mark.parametrize("tag", ["bool", "int", "float", "timestamp"])
    def test_keeps_its_characters_also_with_a_tag(self, read, tag):
        assert {"a": "0123 x"} == read(f"dev:\n    a: !!{tag} 0123 x").tree

    def test_in_quotes_is_text(self, read):
        assert {"a": "~", "b": "null"} == read("dev: {a: '~', b: \"null\"}").tree


class TestBadYaml:
    @pytest.mark.parametrize(
        ("expected", "text"),
        [
            ("line 2: mapping values are not allowed here", "dev:\n    search_backend: _env:SEARCH_BACKEND:\n"),
            ("line 1: found undefined alias", "dev: {password: *s3cret}"),
            ("line 1: could not determine a constructor for the tag", "dev: {password: !s3cret x}"),
            ("line 1: could not determine a constructor for the tag", "dev: {password: !s3cret's x}"),
            ("line 1: could not determine a constructor for the tag", "dev: !!python/object/apply:os.system [s3cret]"),
            ("line 1: while parsing a node, found undefined tag handle", "dev: {password: !s3cret!s3cret x}"),
            ("line 1: found duplicate anchor", "dev: {a: &s3cret x, b: &s3cret y}"),
            (
                "line 2: while parsing a flow mapping, expected ',' or '}', but got '<stream end>'",
                "dev: {password: s3cret\n",
            ),
            (  # with libyaml too, which would accept it
                "line 2: while scanning for the next token, found character '\\t' that cannot start any token",
                "dev:\n    password:\ts3cret\n",
            ),
            ("line 3: a is duplicated", "dev:\n    a: s3cret\n    a: s3cret\n"),
            ("line 2: dev is duplicated", "dev: {}\ndev: {}\n"),
            ("line 1: a key is duplicated", "dev: {password:s3cret, password:s3cret}"),
            ("line 2: expected a single document in the stream, but found another document", "dev: {}\n---\ndev: {}\n"),
            ("it contains control characters, or is not UTF-8", "dev: {password: s3cret\x00}"),
        ],
    )
    def test_is_rejected_with_the_line_number_but_no_content(self, refused, path, expected, text):
        sentence = refused(text)

        assert f"{path} is not valid YAML: {expected}" == sentence

    def test_that_is_not_utf_8_is_rejected(self, path):
        path.write_bytes(b"dev: {password: s3cret\xff}")

        with pytest.raises(ConfigError) as caught:
            flavors.read(path)
        assert f"{path} is not valid YAML: it contains control characters, or is not UTF-8" == str(caught.value)

    @pytest.mark.parametrize(
        "text",
        [
            f"dev: {'[' * 900}{']' * 900}",
            f"dev: {'{a: ' * 5000}b{'}' * 5000}",
            "dev: {auth: &a {b: *a}}",
            "version: 0.1\nstorage: &a {filesystem: *a}",
        ],
    )
    def test_that_is_nested_too_deeply_is_rejected(self, refused, path, text):
        assert f"{path} is nested too deeply, or an anchor contains itself" == refused(text)

    def test_a_list_as_a_key_is_refused(self, refused):
        assert "line 1: while constructing a mapping, found unhashable key" in refused("dev: {[a]: b, [a]: c}")


class TestLookingUp:
    @pytest.mark.parametrize("text", ["0123", "#x", "true", "a:b:c", " x ", "[1]", "_env:HOME", "~"])
    def test_returns_the_exact_value_of_the_variable(self, read, text):
        assert text == read("dev:", X=text).look_up("_env:X:default")

    @pytest.mark.parametrize("text", ["0123", "#x", "true", "sqlite:////tmp/x.db", "http://h:1/", "~"])
    def test_returns_the_exact_default(self, read, text):
        assert text == read("dev:").look_up(f"_env:X:{text}")

    def test_returns_none_without_variable_and_default(self, read):
        assert read("dev:").look_up("_env:X") is None
        assert read("dev:").look_up("_env:X:") is None

    def test_returns_none_for_an_empty_variable_even_with_a_default(self, read):
        assert read("dev:", X="").look_up("_env:X:default") is None

    def test_applies_to_lists_and_omits_unset_items(self, read):
        assert ["a", "1", "d"] == read("dev:", X="1").look_up(["a", "_env:X", "_env:Y", "_env:Z:d"])

    def test_requires_the_prefix(self, read):
        assert "redis://_env:X" == read("dev:", X="1").look_up("redis://_env:X")

    def test_leaves_other_texts_unchanged(self, read):
        assert "plain" == read("dev:").look_up("plain")
        assert read("dev:").look_up("") is None


class TestAnInstalledPackage:
    @pytest.fixture
    def site(self, clone, tmp_path_factory):
        """What `pip install` puts into site-packages."""
        site = tmp_path_factory.mktemp("site")
        command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(site)]
        subprocess.run(command, cwd=clone, capture_output=True, check=True)
        return site

    def test_finds_the_sample_inside_itself(self, site, tmp_path_factory):
        sample = site / "docker_registry/sample/config_sample.yml"

        assert (ROOT / "config/config_sample.yml").read_text() == sample.read_text()
        assert str(sample) == located(tmp_path_factory.mktemp("elsewhere"), {}, PYTHONPATH=str(site))
