import gevent
from gevent.event import Event

from docker_registry import dependencies
from docker_registry.auth import watched_file
from docker_registry.auth.watched_file import WatchedFile
from docker_registry.errors import ConfigError
from tests.support.timing import wait_until


class TestAVersionThatCannotBeUsed:
    def test_is_read_once(self, tmp_path, monkeypatch):
        path, parsed = tmp_path / "rules", []

        def parse(content, path):
            parsed.append(content)
            if content == b"bad":
                raise ConfigError(f"{path} is bad")
            return content

        path.write_bytes(b"good")
        watched = WatchedFile(path, parse)
        path.write_bytes(b"bad")
        wait_until(lambda: not dependencies.may_change_unnoticed(path.stat()))
        assert [b"good"] * 5 == [watched.get() for _ in range(5)]
        assert [b"good", b"bad"] == parsed
        path.write_bytes(b"x" * (watched_file.MAX_BYTES + 1))
        wait_until(lambda: not dependencies.may_change_unnoticed(path.stat()))
        assert b"good" == watched.get()
        monkeypatch.setattr(watched, "_load", None)
        assert b"good" == watched.get()  # without reading it again
        monkeypatch.undo()
        path.write_bytes(b"good")
        assert b"good" == watched.get()
        path.write_bytes(b"better")
        assert b"better" == watched.get()


class TestAVersionThatIsBeingParsed:
    def test_is_not_waited_for_by_others_and_survives_the_end_of_its_greenlet(self, tmp_path):
        path, may_end = tmp_path / "rules", Event()

        def parse(content, _):
            may_end.wait()
            return content

        def get():
            with dependencies.collected() as found:
                return watched.get(), found.is_complete

        may_end.set()
        path.write_bytes(b"old")
        watched = WatchedFile(path, parse)
        may_end.clear()
        path.write_bytes(b"new")
        wait_until(lambda: not dependencies.may_change_unnoticed(path.stat()))
        for end in (gevent.Greenlet.kill, lambda _: may_end.set()):
            loading = gevent.spawn(get)
            gevent.sleep(0)
            assert (b"old", False) == get()
            end(loading)
        assert (b"new", True) == loading.get()
        assert (b"new", True) == get()
