"""The file of users."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import bcrypt
import pytest

from docker_registry.auth.users import bcrypt_jobs, htpasswd
from docker_registry.auth.watched_file import WatchedFile
from docker_registry.errors import ConfigError, Invalid
from tests.support.processes import find

FILE = Path("users")
#: The hash of `pw`; a constant, because test ids contain it and must be the same in all processes of a run.
HASH = "$2b$04$abcdefghijklmnopqrstuuyvPXIbu7xe6/CED2DzX8z6Si09MlzlW"

#: The same hash with bits in the last characters of salt and checksum that belong to neither.
WITH_SPARE_BITS = (f"{HASH[:28]}v{HASH[29:]}", f"{HASH[:28]}9{HASH[29:]}", f"{HASH[:-1]}Z")


class TestAFileOfUsers:
    def test_has_only_hashes_that_passwords_are_compared_with(self):
        assert bcrypt_jobs.check(b"pw", HASH.encode())
        for hashed in WITH_SPARE_BITS:  # of other programs; the library neither accepts nor ignores these bits
            assert not bcrypt_jobs.check(b"pw", hashed.encode())
            assert {"alice": HASH.encode()} == htpasswd.parse(f"alice:{hashed}\n".encode(), FILE)

    def test_has_comments_blank_lines_and_any_bcrypt_prefix(self):
        content = f"# users\n\nalice:{HASH}\r\n  bob@example.com:$2y{HASH[3:]}\n"
        assert {"alice", "bob@example.com"} == set(htpasswd.parse(content.encode(), FILE))

    @pytest.mark.parametrize(
        ("line", "sentence"),
        [
            ("alice", "there is no colon"),
            ("alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "not a bcrypt hash"),
            ("alice:$apr1$x$y", "not a bcrypt hash"),
            ("alice:secret", "not a bcrypt hash"),
            (f"alice:{HASH[:-1]}", "not a bcrypt hash"),
            (f"alice:$2y$15{HASH[6:]}", "has cost 15"),
            (f":{HASH}", "must be 1 to 128"),
            (f"a/b:{HASH}", "must be 1 to 128"),
            (f"anonymous:{HASH}", "is reserved"),
            (f"authenticated:{HASH}", "is reserved"),
            (f"10.0.0.1:{HASH}", "must not be a network address"),
            (f"carol:{HASH}", "listed twice"),
        ],
    )
    def test_is_refused_with_the_line_and_without_the_hash(self, line, sentence):
        with pytest.raises(ConfigError) as raised:
            htpasswd.parse(f"carol:{HASH}\n{line}\n".encode(), FILE)
        assert str(raised.value).startswith("users, line 2: ")
        assert sentence in str(raised.value)
        assert "secret" not in str(raised.value)
        assert HASH not in str(raised.value)

    def test_of_apache_is_understood(self, tmp_path):
        program = find("htpasswd")
        if program is None:
            pytest.skip("htpasswd is not installed (Debian package apache2-utils)")
        subprocess.run([program, "-cbB", "-C", "4", tmp_path / "users", "alice", "pw"], check=True, capture_output=True)
        users = htpasswd.parse((tmp_path / "users").read_bytes(), FILE)
        assert bcrypt.checkpw(b"pw", users["alice"])

    def test_keeps_comments_mode_and_other_users_when_one_changes(self, tmp_path):
        path, link = tmp_path / "users", tmp_path / "link"
        path.write_text(f"# mine\nalice:{HASH}\nbob:{HASH}\n")
        path.chmod(0o640)
        link.symlink_to("users")
        htpasswd.write(link, {"alice": None, "carol": HASH.encode()})
        assert f"# mine\nbob:{HASH}\ncarol:{HASH}\n" == path.read_text()
        assert 0o640 == path.stat().st_mode & 0o777
        assert link.is_symlink()
        assert {"users", "link"} == {each.name for each in tmp_path.iterdir()}

    def test_keeps_lines_with_other_encodings_and_separators_when_a_user_changes(self, tmp_path):
        """A comment must not be divided: its second part would be a malformed line."""
        comments = "# Z\u00fcrich\n".encode("latin-1") + "# a\u2028b\x0cc\x85d\re\r\n\n".encode()
        (tmp_path / "users").write_bytes(comments + f"alice:{HASH}\r\nbob:{HASH}".encode())
        htpasswd.write(tmp_path / "users", {"alice": None, "carol": HASH.encode()})
        content = (tmp_path / "users").read_bytes()
        assert comments + f"bob:{HASH}\ncarol:{HASH}\n".encode() == content
        assert {"bob", "carol"} == set(htpasswd.parse(content, FILE))

    def test_is_made_readable_for_its_owner_only(self, tmp_path):
        htpasswd.write(tmp_path / "users", {"alice": HASH.encode()})
        assert 0o600 == (tmp_path / "users").stat().st_mode & 0o777

    def test_is_synced_with_its_folder_when_a_user_changes(self, tmp_path, monkeypatch):
        synced = []
        monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
        htpasswd.write(tmp_path / "users", {"alice": HASH.encode()})
        assert [path.stat().st_ino for path in (tmp_path / "users", tmp_path)] == synced

    @pytest.mark.parametrize("password", ["", "a\0b", "x" * 73, "caf\udce9"])
    def test_gets_no_password_that_bcrypt_would_cut_or_is_not_utf_8(self, password):
        with pytest.raises(Invalid):
            htpasswd.hash_password(password)


@pytest.fixture
def watched(tmp_path):
    path = tmp_path / "users"
    path.write_text(f"alice:{HASH}\n")
    return WatchedFile(path, htpasswd.parse)


def replace(path, text, age_seconds=0.0):
    fresh = path.with_name("fresh")
    fresh.write_text(text)
    fresh.replace(path)


class TestAChangedFile:
    def test_is_reloaded_at_the_next_request(self, watched):
        replace(watched.path, f"bob:{HASH}\n")
        assert ["bob"] == list(watched.get())

    def test_is_reloaded_after_changes_within_one_tick_of_the_clock(self, watched):
        for number in range(50):
            with watched.path.open("r+") as file:  # the same inode and the same size
                file.write(f"us{number:03d}")
            assert [f"us{number:03d}"] == list(watched.get())

    def test_is_not_read_again_while_it_is_unchanged(self, watched):
        time.sleep(0.15)
        watched.get()
        os.utime(watched.path, (0, 0))
        first = watched.get()
        assert first is watched.get()
        assert 1 == watched.version

    def test_is_reloaded_when_kubernetes_swaps_its_link(self, tmp_path):
        for version, name in (("1", "alice"), ("2", "bob")):
            (tmp_path / f"..{version}").mkdir()
            (tmp_path / f"..{version}" / "users").write_text(f"{name}:{HASH}\n")
        (tmp_path / "..data").symlink_to("..1")
        (tmp_path / "users").symlink_to("..data/users")
        watched = WatchedFile(tmp_path / "users", htpasswd.parse)
        assert ["alice"] == list(watched.get())
        (tmp_path / "..data_tmp").symlink_to("..2")
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")
        assert ["bob"] == list(watched.get())

    @pytest.mark.parametrize("content", ["alice", "alice:{SHA}x", None])
    def test_that_is_broken_or_gone_leaves_the_last_one_and_logs_once(self, watched, caplog, content):
        if content is None:
            watched.path.unlink()
        else:
            replace(watched.path, content)
        assert [["alice"]] * 3 == [list(watched.get()) for _ in range(3)]
        (record,) = caplog.records
        assert str(watched.path) in record.message
        assert "the last usable version stays in force" in record.message
        replace(watched.path, f"bob:{HASH}\n")
        assert ["bob"] == list(watched.get())

    def test_stops_the_start_when_it_is_broken(self, tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            WatchedFile(tmp_path / "none", htpasswd.parse)
