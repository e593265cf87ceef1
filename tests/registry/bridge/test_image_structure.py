from __future__ import annotations

import json

import pytest

from docker_registry.registry.bridge.image_structure import ImageStructure


def written(**fields):
    return json.loads(ImageStructure(json.dumps(fields).encode()).to_json())


class TestTheStructure:
    def test_has_every_field_of_a_container_in_order(self):
        assert (
            b'{"created":"0001-01-01T00:00:00Z","container_config":{"Hostname":"","Domainname":"","User":"",'
            b'"AttachStdin":false,"AttachStdout":false,"AttachStderr":false,"Tty":false,"OpenStdin":false,'
            b'"StdinOnce":false,"Env":null,"Cmd":null,"Image":"","Volumes":null,"WorkingDir":"","Entrypoint":null,'
            b'"OnBuild":null,"Labels":null}}'
        ) == ImageStructure(b"{}").to_json()

    def test_has_optional_fields_only_if_set(self):
        config = {
            "ExposedPorts": {"80/tcp": {"x": 1}}, "ArgsEscaped": True, "NetworkDisabled": True, "MacAddress": "m",
            "StopSignal": "s",
        }  # fmt: skip
        assert {**config, "ExposedPorts": {"80/tcp": {}}}.items() <= written(config=config)["config"].items()
        empty = dict.fromkeys(config)
        assert not empty.keys() & written(config=empty)["config"].keys()

    def test_drops_unknown_fields(self):
        document = written(id="1", surprise=1, config={"surprise": 1, "PortSpecs": None})
        assert not {"surprise", "PortSpecs"} & {*document, *document["config"]}

    def test_accepts_keys_in_upper_and_lower_case(self):
        assert "me" == written(AUTHOR="me")["author"]

    def test_accepts_a_command_as_a_single_string(self):
        assert ["/bin/sh -c true"] == written(config={"Cmd": "/bin/sh -c true"})["config"]["Cmd"]

    def test_treats_null_as_absent(self):
        assert (
            ImageStructure(b"{}").to_json()
            == ImageStructure(
                b'{"author":null,"config":null,"container_config":null,"created":null,"Size":null}'
            ).to_json()
        )

    @pytest.mark.parametrize(
        "fields",
        [
            {"author": 1}, {"author": ["x"]}, {"created": "yesterday"}, {"created": "2014-02-30T00:00:00Z"},
            {"config": []}, {"config": {"Tty": "true"}}, {"config": {"Env": {}}}, {"config": {"Env": [1]}},
            {"config": {"Cmd": {}}}, {"config": {"Volumes": []}}, {"config": {"Volumes": {"a": 1}}},
            {"config": {"Labels": {"a": 1}}}, {"container_config": "x"}, {"Size": "1"}, {"Size": 1.5},
            {"docker_version": 1.5},
        ],
    )  # fmt: skip
    def test_rejects_a_field_of_another_type(self, fields):
        with pytest.raises(ValueError):
            ImageStructure(json.dumps(fields).encode())


class TestATime:
    @pytest.mark.parametrize(
        ("given", "shown"),
        [
            ("2014-06-01T10:00:00Z", "2014-06-01T10:00:00Z"),
            ("2014-06-01T10:00:00.120000000Z", "2014-06-01T10:00:00.12Z"),
            ("2014-06-01T10:00:00.000Z", "2014-06-01T10:00:00Z"),
            ("2014-06-01T10:00:00.123456789+02:00", "2014-06-01T10:00:00.123456789+02:00"),
            ("2014-06-01T10:00:00+00:00", "2014-06-01T10:00:00Z"),
        ],
    )
    def test_is_written_as_go_does(self, given, shown):
        assert shown == written(created=given)["created"]


class TestAnOldDocker:
    @pytest.mark.parametrize("version", ["1.8.2", "1.8", "1.5.0", "0.7.6-dev", "1.8.3-rc1", "", "dev", "1.8.2.9"])
    def test_is_recognized_below_1_8_3(self, version):
        assert ImageStructure(json.dumps({"docker_version": version}).encode()).is_from_old_docker

    @pytest.mark.parametrize("version", ["1.8.3", "1.10.0", "1.8.3.1", "2", "17.05.0-ce"])
    def test_is_not_recognized_from_1_8_3_on(self, version):
        assert not ImageStructure(json.dumps({"docker_version": version}).encode()).is_from_old_docker

    def test_is_recognized_without_a_version(self):
        assert ImageStructure(b"{}").is_from_old_docker


class TestAHistory:
    def test_has_time_author_and_command(self):
        image = ImageStructure(
            json.dumps(
                {
                    "created": "2014-06-01T10:00:00.50Z",
                    "author": "A <a@example.com>",
                    "container_config": {"Cmd": ["/bin/sh", "-c", "#(nop) ADD x"]},
                    "comment": "c",
                }
            ).encode()
        )
        assert (
            r'{"created":"2014-06-01T10:00:00.5Z","author":"A \u003ca@example.com\u003e",'
            r'"created_by":"/bin/sh -c #(nop) ADD x","comment":"c"}'
        ) == image.history()

    def test_omits_missing_fields(self):
        assert '{"created":"0001-01-01T00:00:00Z"}' == ImageStructure(b"{}").history()
