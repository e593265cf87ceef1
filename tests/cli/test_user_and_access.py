"""``docker-registry user`` and ``docker-registry access check``."""

from __future__ import annotations

import fcntl
import io
import json
import os

import bcrypt
import pytest

from docker_registry.auth.users import htpasswd
from docker_registry.cli import main
from tests.support.access import COST, RULES, write_users


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with users and rules, and a configuration that names them."""
    (tmp_path / "rules.yml").write_text(RULES)
    write_users(tmp_path / "users", "alice", "bob")
    auth = f"{{htpasswd: {tmp_path / 'users'}, rules: {tmp_path / 'rules.yml'}}}"
    (tmp_path / "config.yml").write_text(f"dev: {{storage: memory, auth: {auth}}}")
    monkeypatch.setenv("DOCKER_REGISTRY_CONFIG", str(tmp_path / "config.yml"))
    monkeypatch.delenv("SETTINGS_FLAVOR", raising=False)
    monkeypatch.setattr(htpasswd, "COST", COST)
    return tmp_path


@pytest.fixture
def says(monkeypatch):
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


def users(folder):
    return htpasswd.parse((folder / "users").read_bytes(), folder / "users")


class TestTheUserCommand:
    def test_lists(self, folder, capsys):
        assert 0 == main(["user", "list"])
        assert "alice\nbob\n" == capsys.readouterr().out
        assert 0 == main(["user", "list", "--json"])
        assert {"users": ["alice", "bob"]} == json.loads(capsys.readouterr().out)

    def test_adds_changes_and_removes(self, folder, capsys, says):
        says("secret ä\n")
        assert 0 == main(["user", "add", "carol"])
        assert bcrypt.checkpw("secret ä".encode(), users(folder)["carol"])
        says("other")
        assert 0 == main(["user", "passwd", "carol"])
        assert bcrypt.checkpw(b"other", users(folder)["carol"])
        assert 0 == main(["user", "remove", "alice"])
        assert {"bob", "carol"} == set(users(folder))
        assert "secret" not in capsys.readouterr().out

    def test_lets_others_change_the_file_while_it_waits_for_a_password(self, folder, monkeypatch, capsys):
        class Typing(io.StringIO):
            def readline(self):
                descriptor = os.open(folder, os.O_RDONLY)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.close(descriptor)
                htpasswd.write(folder / "users", {"alice": None})
                return "secret"

        monkeypatch.setattr("sys.stdin", Typing())
        assert 0 == main(["user", "add", "carol"])
        assert {"bob", "carol"} == set(users(folder))
        write_users(folder / "users", "alice", "bob")
        assert 2 == main(["user", "passwd", "alice"])
        assert "There is no user alice" in capsys.readouterr().err
        assert {"bob"} == set(users(folder))

    def test_creates_the_file(self, folder, says):
        (folder / "users").unlink()
        says("secret")
        assert 0 == main(["user", "add", "carol"])
        assert ["carol"] == list(users(folder))

    @pytest.mark.parametrize(
        ("arguments", "password"),
        [
            (["add", "alice"], "x"),
            (["add", "a/b"], "x"),
            (["add", "anonymous"], "x"),
            (["add", "carol"], ""),
            (["add", "carol"], "x" * 73),
            (["passwd", "carol"], "x"),
            (["remove", "carol"], ""),
        ],
    )
    def test_rejects_errors_with_one_sentence_and_changes_nothing(self, folder, capsys, says, arguments, password):
        before = (folder / "users").read_bytes()
        says(password + "\n")
        assert 2 == main(["user", *arguments])
        out, err = capsys.readouterr()
        assert ("", 1) == (out, len(err.splitlines()))
        assert before == (folder / "users").read_bytes()

    @pytest.mark.parametrize("errors", ["strict", "surrogateescape"])  # Python chooses by the locale
    def test_rejects_a_password_that_is_not_utf_8(self, folder, capsys, monkeypatch, errors):
        before = (folder / "users").read_bytes()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), "utf-8", errors))
        assert 2 == main(["user", "passwd", "alice"])
        assert "docker-registry: The password is not valid UTF-8.\n" == capsys.readouterr().err
        assert before == (folder / "users").read_bytes()

    def test_requires_a_password(self, folder, capsys, monkeypatch):
        monkeypatch.setattr("sys.stdin", None)  # closed, as by a supervisor
        assert 2 == main(["user", "passwd", "alice"])
        assert "docker-registry: No password was entered.\n" == capsys.readouterr().err

    def test_rejects_a_malformed_file(self, folder, capsys, says):
        (folder / "users").write_text("alice:secret\n")
        says("x")
        assert 2 == main(["user", "add", "carol"])
        assert "line 1" in capsys.readouterr().err
        assert "alice:secret\n" == (folder / "users").read_text()

    def test_requires_a_file(self, folder, capsys):
        (folder / "config.yml").write_text("dev: {storage: memory}")
        assert 2 == main(["user", "list"])
        assert "auth.htpasswd" in capsys.readouterr().err


class TestTheAccessCommand:
    @pytest.mark.parametrize(
        ("arguments", "status", "sentence"),
        [
            (["alice", "push", "acme/web:v1"], 0, "allowed: the rule in line 5"),
            (["alice", "push", "acme/web:latest"], 1, "denied: no rule allows it"),
            (["anonymous", "pull", "public/web"], 0, "allowed: the rule in line 6"),
            (["carol", "push", "carol/x"], 0, "allowed: the rule in line 7; no such user in auth.htpasswd"),
        ],
    )
    def test_explains(self, folder, capsys, arguments, status, sentence):
        assert status == main(["access", "check", *arguments])
        assert f"{sentence}\n" == capsys.readouterr().out

    def test_denies_to_overwrite_without_push(self, folder, capsys):
        rules = [
            f"{{repositories: [{name}], who: [alice], allow: [{actions}]}}"
            for name, actions in (("a", "overwrite"), ("b", "overwrite, push"))
        ]
        (folder / "rules.yml").write_text(f"rules: [{', '.join(rules)}]")
        assert [1, 0] == [main(["access", "check", "alice", "overwrite", f"{name}:v1"]) for name in "ab"]
        assert "denied: the rule in line 1 allows it, but it needs push too" in capsys.readouterr().out

    def test_prints_json(self, folder, capsys):
        assert 0 == main(["access", "check", "alice", "push", "acme/web:v1", "--json"])
        found = json.loads(capsys.readouterr().out)
        assert (True, 5) == (found["allowed"], found["line"])

    @pytest.mark.parametrize("arguments", [["alice", "push", "Acme"], ["alice", "push", "a", "--address", "x"]])
    def test_rejects_invalid_arguments(self, folder, capsys, arguments):
        assert 2 == main(["access", "check", *arguments])
        assert 1 == len(capsys.readouterr().err.splitlines())

    def test_explains_the_default_without_rules(self, folder, capsys):
        (folder / "config.yml").write_text(f"dev: {{storage: memory, auth: {{htpasswd: {folder / 'users'}}}}}")
        assert 0 == main(["access", "check", "alice", "admin", "x"])
        assert 1 == main(["access", "check", "anonymous", "pull", "x"])
        assert "no rules file" in capsys.readouterr().out

    def test_requires_access_control(self, folder, capsys):
        (folder / "config.yml").write_text("dev: {storage: memory}")
        assert 2 == main(["access", "check", "alice", "pull", "x"])
        assert "Access control is not configured" in capsys.readouterr().err
