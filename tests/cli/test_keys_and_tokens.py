"""``docker-registry keys`` and ``docker-registry token``."""

from __future__ import annotations

import json
import time

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from docker_registry.auth.tokens import signing_keys
from docker_registry.auth.tokens.refresh_tokens import RefreshTokens
from docker_registry.cli import main
from docker_registry.drivers.file import FileDriver
from tests.support.access import write_users


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store with a user, and a configuration that names both."""
    write_users(tmp_path / "users", "alice")
    section = f"storage: file, storage_path: {tmp_path / 'store'}, auth: {{htpasswd: {tmp_path / 'users'}}}"
    (tmp_path / "config.yml").write_text(f"dev: {{{section}}}")
    monkeypatch.setenv("DOCKER_REGISTRY_CONFIG", str(tmp_path / "config.yml"))
    monkeypatch.delenv("SETTINGS_FLAVOR", raising=False)
    return FileDriver(str(tmp_path / "store"))


class TestTheKeysCommand:
    def test_lists_rotates_and_exports(self, store, capsys):
        assert 0 == main(["keys", "list", "--json"])
        (key,) = json.loads(capsys.readouterr().out)["keys"]
        assert 0 == main(["keys", "rotate"])
        assert 0 == main(["keys", "list"])
        assert [key["kid"]] == [line.split()[2] for line in capsys.readouterr().out.splitlines() if key["kid"] in line]
        main(["keys", "export"])
        pem = capsys.readouterr().out
        main(["keys", "export", "--certificate"])
        certificates = x509.load_pem_x509_certificates(capsys.readouterr().out.encode())
        main(["keys", "export", "--jwks"])
        published = json.loads(capsys.readouterr().out)
        assert 2 == len(certificates) == len(published["keys"]) == pem.count("BEGIN PUBLIC KEY")
        assert "d" not in published["keys"][0]
        assert key["kid"] == published["keys"][0]["kid"]
        first = certificates[0].public_key()
        assert key["kid"] == signing_keys.key_id(first)
        assert first.public_numbers() == load_pem_public_key(pem.encode()).public_numbers()
        assert first.public_numbers() == jwt.PyJWK(published["keys"][0]).key.public_numbers()

    @pytest.mark.parametrize("command", [["keys", "list"], ["token", "list"]])
    def test_requires_access_control(self, store, tmp_path, capsys, command):
        (tmp_path / "config.yml").write_text("dev: {storage: memory}")
        assert 2 == main(command)
        assert "Access control is not configured" in capsys.readouterr().err


class TestTheTokenCommand:
    def test_lists_and_revokes(self, store, capsys):
        refresh = RefreshTokens(store)
        texts = [
            refresh.issue(user, client, "v") for user, client in (("alice", "docker\n"), ("alice", "ctr"), ("bob", ""))
        ]
        assert 0 == main(["token", "list", "--json"])
        out = capsys.readouterr().out
        listed = json.loads(out)["tokens"]
        assert ["alice", "alice", "bob"] == [token["user"] for token in listed]
        assert not any(text in out for text in texts)
        assert 0 == main(["token", "list"])
        assert 3 == len(capsys.readouterr().out.splitlines())
        assert 0 == main(["token", "revoke", listed[2]["id"]])
        assert refresh.verify(texts[2], lambda _: "v") is None
        assert refresh.verify(texts[0], lambda _: "v") is not None
        assert 0 == main(["token", "revoke", "--user", "alice"])
        assert [] == list(refresh.list())

    @pytest.mark.parametrize("arguments", [[], ["x"], ["0" * 12], ["--user", "bob"], ["0" * 12, "--user", "bob"]])
    def test_rejects_an_unknown_token(self, store, capsys, arguments):
        text = RefreshTokens(store).issue("alice", "docker", "v")
        assert 2 == main(["token", "revoke", *arguments])
        assert 1 == len(capsys.readouterr().err.splitlines())
        assert RefreshTokens(store).verify(text, lambda _: "v") is not None

    def test_ends_tokens_that_nothing_uses_for_90_days(self, store, monkeypatch):
        clock = [time.time()]
        refresh = RefreshTokens(store, lambda: clock[0])
        texts = [refresh.issue("alice", "docker", "v") for _ in range(2)]
        read = []
        with monkeypatch.context() as patch:
            patch.setattr(store, "get_versioned", read.append)
            assert 0 == refresh.purge()
        assert [] == read  # the files are too new
        clock[0] += 80 * 86400
        assert refresh.verify(texts[0], lambda _: "v") is not None
        clock[0] += 80 * 86400
        assert refresh.verify(texts[1], lambda _: "v") is None
        assert 1 == refresh.purge()
        assert refresh.verify(texts[0], lambda _: "v") is not None

    def test_is_not_undone_by_a_concurrent_use(self, store):
        clock = [0.0]
        refresh = RefreshTokens(store, lambda: clock[0])
        text = refresh.issue("alice", "docker", "v")
        clock[0] += 2 * 86400  # its use is recorded again

        def revoke(user):
            refresh.revoke(lambda token: True)
            return "v"

        assert refresh.verify(text, revoke) is None
        assert [] == list(refresh.list())
