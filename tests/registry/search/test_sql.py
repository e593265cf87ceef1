"""The search index in every supported database, each a real one."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy

from docker_registry.errors import ConfigError, StorageError, StorageUnavailable
from docker_registry.registry.names import RepositoryName
from docker_registry.registry.search.backends import open_index
from docker_registry.registry.search.database import Database
from docker_registry.registry.search.index import Entry, Page, Result
from docker_registry.registry.search.schema import INDEX, MAX_DESCRIPTION, METADATA, REPOSITORY, plain_name
from tests.support.servers.databases_and_stores import PASSWORD
from tests.support.timing import wait_until

ROOT = Path(__file__).parents[3]
FIXTURES = ROOT / "tests/fixtures/search"


@pytest.fixture(scope="class", params=["sqlite", "postgresql", "mariadb"])
def databases(request):
    """Creates databases."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request):
    """A database server."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def url(databases):
    """The URL of an empty database."""
    return databases.create_database()


@pytest.fixture
def opened():
    """Open indexes, and close them at the end."""
    indexes = []

    def open_(url, look_up=None):
        indexes.append(open_index("sqlalchemy", url, look_up))
        return indexes[-1]

    yield open_
    for index in indexes:
        index.close()


@pytest.fixture
def index(url, opened):
    """An empty index."""
    return opened(url)


def found(index, query="", **options):
    """The names that a search finds, in order."""
    return [result.name for result in index.search(query, **options).results]


def fill(index, *names):
    for name in names:
        index.put(Entry(name))


def execute(url, *statements):
    """Change a database without the index."""
    database = Database(url)
    for statement in statements:
        database.write(lambda connection, statement=statement: connection.execute(sqlalchemy.text(statement)))
    database.close()


class TestASearch:
    def test_finds_part_of_a_name_in_any_case(self, index):
        fill(index, "acme/web", "acme/website", "acme/api")

        assert ["acme/web", "acme/website"] == found(index, "WEB")
        assert ["acme/web", "acme/website"] == found(index, "me/w")
        assert [] == found(index, "nothing")

    def test_finds_everything_without_a_query(self, index):
        fill(index, "b", "a/b", "a")

        assert ["a", "a/b", "b"] == found(index) == found(index, "  ")

    def test_returns_the_fields_that_docker_prints(self, index):
        index.put(Entry("acme/web", "Serves pages"))

        expected = Result("acme/web", "Serves pages", star_count=0, is_official=False, is_automated=False)
        assert Page("web", 1, 25, 1, (expected,)) == index.search("web")

    def test_finds_part_of_a_description(self, index):
        index.put(Entry("acme/web", "Serves Pages"))
        index.put(Entry("acme/api", ""))

        assert ["acme/web"] == found(index, "pages")

    def test_treats_the_query_literally(self, index):
        fill(index, "acme/web_1", "acme/web-1", "acme/web.1")
        index.put(Entry("acme/sale", r"50% off, C:\temp, it's /this"))

        assert ["acme/web_1"] == found(index, "b_1")
        assert ["acme/sale"] == found(index, "%") == found(index, "0% o") == found(index, "\\") == found(index, "t's /")
        assert [] == found(index, "w%b") == found(index, "[a-z]") == found(index, "web*") == found(index, "' OR ''='")

    def test_lists_the_best_match_first(self, index):
        fill(index, "acme/nginx", "library/nginx", "nginx", "nginx-plus", "library/nginx-ui", "a/my-nginx", "nginx/a")

        expected = ["nginx", "library/nginx", "library/nginx-ui", "nginx-plus", "nginx/a", "a/my-nginx", "acme/nginx"]
        assert expected == found(index, "nginx")

    def test_sorts_names_by_their_characters(self, index):
        names = ["a-b", "a.b", "a/b", "a0", "a_b", "ab", "zz", "é", "中", "🐳"]
        fill(index, *reversed(names))

        assert names == found(index)

    def test_supports_other_alphabets(self, index):
        fill(index, "größe/käse", "中文/名字", "🐳/🐋")

        assert ["größe/käse"] == found(index, "KÄSE") == found(index, "GRÖSSE")
        assert ["中文/名字"] == found(index, "文")
        assert ["🐳/🐋"] == found(index, "🐋")

    def test_hides_private_repositories(self, index):
        index.put(Entry("acme/secret", private=True))
        index.put(Entry("acme/web"))

        assert Page("acme", num_results=1, results=(Result("acme/web"),)) == index.search("acme")
        assert ["acme/secret", "acme/web"] == found(index, "acme", private=True)
        assert 0 == index.search("acme/secret").num_results


NAMES = sorted([f"acme/web{number}" for number in range(9)] + [f"web{number}" for number in range(7)])


@pytest.fixture(scope="class")
def filled(databases):
    """An index of ``NAMES``, which tests only read."""
    with contextlib.closing(open_index("sqlalchemy", databases.create_database())) as index:
        fill(index, *NAMES)
        yield index


class TestAnUnusualQuery:
    @pytest.mark.parametrize("query", ["\0", "a\0b", "\udc80", "\ud83d", "\n", "x" * 5000, "\U0010ffff", "%" * 1000])
    def test_is_answered(self, filled, query):
        assert query == filled.search(query).query


class TestThePages:
    @pytest.mark.parametrize("query", ["web", "acme", "", "e"])
    @pytest.mark.parametrize("page_size", [1, 4, 7, 25])
    def test_contain_each_entry_once(self, filled, query, page_size):
        pages = [filled.search(query, page=page, page_size=page_size) for page in range(1, 20)]

        expected = sorted(
            (name for name in NAMES if query in name), key=lambda name: (not name.startswith(query), name)
        )
        assert expected == [result.name for page in pages for result in page.results]
        assert {len(expected)} == {page.num_results for page in pages}
        assert {-(-len(expected) // page_size)} == {page.num_pages for page in pages}

    @pytest.mark.parametrize("page", [3, 10**6, 10**18, 10**30])
    def test_beyond_the_end_are_empty(self, filled, page):
        assert Page("web", page, 16, 16) == filled.search("web", page=page, page_size=16)


class TestAnEntry:
    def test_that_exists_already_is_no_error(self, index, url, opened):
        for each in (index, index, opened(url)):
            each.put(Entry("acme/web"))

        assert ["acme/web"] == found(index)

    def test_is_replaced_by_the_next(self, index):
        index.put(Entry("acme/web", "old"))
        index.put(Entry("acme/web", "new", private=True))

        assert (Result("acme/web", "new"),) == index.search("new", private=True).results
        assert [] == found(index, "new") == found(index, "old", private=True)

    def test_is_deleted(self, index):
        fill(index, "acme/web", "acme/api")
        index.delete("acme/web")
        index.delete("acme/web")
        index.delete("acme/never")

        assert ["acme/api"] == found(index)

    def test_may_have_a_name_of_maximum_length(self, index):
        name = str(RepositoryName.parse("a/" * 127 + "b"))
        index.put(Entry(name))

        assert [name] == found(index, "a/b")

    def test_with_a_very_long_description_keeps_its_beginning(self, index):
        index.put(Entry("acme/book", "ß\0" + "Call me Ishmael. " * 10_000))

        (result,) = index.search("ISHMAEL").results
        assert MAX_DESCRIPTION == len(result.description)

    def test_that_is_too_long_has_a_distinct_error(self, server, opened):
        index = opened(server.create_database())
        with pytest.raises(StorageError):
            index.put(Entry("a" * 513))

        fill(index, "acme/web")
        assert ["acme/web"] == found(index)

    def test_can_be_written_concurrently(self, url, opened):
        indexes = [opened(url) for _ in range(4)]
        threads = [
            threading.Thread(target=fill, args=(index, *(f"acme/n{number}" for number in range(25))))
            for index in indexes
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert 25 == indexes[0].search("").num_results


class TestAReindexing:
    def test_replaces_everything(self, index):
        fill(index, "acme/gone", "acme/web")
        entries = [Entry("acme/web", "described"), Entry("acme/new"), Entry("acme/secret", private=True)]

        assert 3 == index.reindex(iter(entries))
        assert ["acme/new", "acme/web"] == found(index)
        assert ["acme/web"] == found(index, "described")
        assert ["acme/secret"] == found(index, "secret", private=True)

    def test_makes_a_new_index_complete(self, index):
        assert not index.is_complete()

        index.reindex([])
        assert index.is_complete()

    def test_may_be_repeated_with_any_number_of_entries(self, index):
        for _ in range(2):
            assert 1203 == index.reindex(Entry(f"acme/n{number}") for number in range(1203))
            assert 1203 == index.search("acme").num_results

    def test_counts_a_repeated_repository_once(self, index):
        assert 1 == index.reindex([Entry("acme/web"), Entry("acme/web")])

    def test_keeps_answering_meanwhile(self, index):
        fill(index, "acme/web", "acme/gone")
        seen = []

        def entries():
            for number in range(1500):
                if number % 300 == 0:
                    seen.append(found(index, "acme"))
                yield Entry(f"other/n{number}")
            yield Entry("acme/web")

        index.reindex(entries())
        assert [["acme/gone", "acme/web"]] * 5 == seen
        assert ["acme/web"] == found(index, "acme")

    def test_keeps_concurrent_changes(self, index, url, opened):
        fill(index, "acme/web", "acme/gone")
        another = opened(url)

        def entries():
            yield Entry("acme/web")
            another.put(Entry("acme/web", private=True))
            another.put(Entry("acme/pushed"))
            another.delete("acme/gone")

        index.reindex(entries())
        assert ["acme/pushed"] == found(index)
        assert ["acme/pushed", "acme/web"] == found(index, private=True)

    def test_does_not_restore_a_repository_that_is_deleted_meanwhile(self, url, opened):
        store = {name: Entry(name) for name in ("acme/api", "acme/gone", "acme/web")}
        index, another = opened(url, store.get), opened(url)
        another.put(store["acme/api"])

        def entries():
            yield from list(store.values())
            for name in list(store):
                del store[name]
                another.delete(name)
            store["acme/web"] = Entry("acme/web")  # pushed again

        index.reindex(entries())
        assert ["acme/web"] == found(index)

    def test_that_is_interrupted_deletes_nothing(self, index):
        fill(index, "acme/web")

        def entries():
            yield Entry("acme/api")
            raise StorageUnavailable

        with pytest.raises(StorageUnavailable):
            index.reindex(entries())
        assert ["acme/web"] == found(index, "web")
        assert not index.is_complete()


def old_database(version, databases):
    """Create a database as an old server wrote it, and return its URL."""
    url = databases.create_database()
    fixture = FIXTURES / f"registry-{version}.db"
    if url.startswith("sqlite"):
        shutil.copy(fixture, url.removeprefix("sqlite:///"))
        return url
    connection = sqlite3.connect(fixture)
    rows = connection.execute("SELECT id, name, description FROM repository").fetchall()
    connection.close()
    quoted = ", ".join(f"({number}, '{name.replace('%', '%%')}', '{text}')" for number, name, text in rows)
    execute(
        url,
        "CREATE TABLE version (id INTEGER NOT NULL PRIMARY KEY)",
        "CREATE TABLE repository (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(95) NOT NULL UNIQUE,"
        " description VARCHAR(100))",
        "INSERT INTO version VALUES (1)",
        f"INSERT INTO repository VALUES {quoted}".replace("%%", "%"),
    )
    return url


NAMES_0_7_1 = [
    *("acme/broken", "acme/newer", "acme/secret", "acme/web", "deep/er/name"),
    *("library/base", "modern/gold-dev", "modern/gold-hold"),
]


class TestTheDatabaseOfAnOldServer:
    def test_of_0_7_1_is_adopted(self, databases, opened):
        assert NAMES_0_7_1 == found(opened(old_database("0.7.1", databases)))

    def test_of_0_9_1_is_adopted(self, databases, opened):
        assert ["a/b/c", "library/tool", "team/app"] == found(opened(old_database("0.9.1", databases)))

    def test_is_adopted_once(self, databases, opened):
        url = old_database("0.7.1", databases)
        first = opened(url)
        first.delete("acme/web")

        assert "acme/web" not in found(opened(url))

    def test_is_not_complete(self, databases, opened):
        assert not opened(old_database("0.9.1", databases)).is_complete()

    def test_is_compared_with_the_store(self, databases, opened):
        store = {
            "acme/web": Entry("acme/web", "Serves pages"),
            "deep/er/name": Entry("deep/er/name"),
            "acme/secret": Entry("acme/secret", private=True),
        }
        index = opened(old_database("0.7.1", databases), store.get)

        assert ["acme/web", "deep/er/name"] == found(index)
        assert ["acme/web"] == found(index, "pages")
        assert ["acme/secret"] == found(index, "secret", private=True)

    def test_accepts_longer_names(self, databases, opened):
        index = opened(old_database("0.9.1", databases))
        name = str(RepositoryName.parse("a" * 255))
        index.put(Entry(name, "b" * 500))

        assert (Result(name, "b" * 500),) == index.search("aaaa").results

    def test_stays_usable_by_the_old_server(self, databases, opened):
        url = old_database("0.9.1", databases)
        opened(url)
        query = sqlalchemy.text("SELECT name FROM repository ORDER BY id")
        database = Database(url)

        assert ["team/app", "a/b%2Fc", "library/tool"] == database.read(lambda line: list(line.scalars(query)))
        database.close()

    def test_may_contain_names_of_every_quoting(self, databases, opened):
        url = old_database("0.9.1", databases)
        execute(
            url,
            "INSERT INTO repository VALUES (10, 'a/b%252Fc', NULL), (11, 'x/y%252Fz', 'it'),"
            " (12, 'broken/%FF', ''), (13, 'Not/A+Name', '')",
        )

        assert ["a/b/c", "library/tool", "team/app", "x/y/z"] == found(opened(url))

    def test_of_another_program_is_not_touched(self, url, opened):
        execute(
            url,
            "CREATE TABLE version (id INTEGER NOT NULL PRIMARY KEY)",
            "CREATE TABLE repository (number INTEGER NOT NULL PRIMARY KEY, name VARCHAR(20))",
            "INSERT INTO repository VALUES (1, 'their')",
        )

        assert [] == found(opened(url))

    @pytest.mark.parametrize("quoted", ["a/b/c", "a/b%2Fc", "a/b%252Fc"])
    def test_has_readable_names(self, quoted):
        assert "a/b/c" == plain_name(quoted)


class TestUnexpectedTables:
    def test_are_completed_after_another_process_was_killed(self, databases, opened):
        url = old_database("0.9.1", databases)
        database = Database(url)
        database.write(METADATA.create_all)
        row = {"name": "team/app", "description": "", "private": False, "searchable": "team/app\n", "generation": 0}
        database.write(lambda connection: connection.execute(sqlalchemy.insert(REPOSITORY), row))
        database.close()

        assert ["a/b/c", "library/tool", "team/app"] == found(opened(url))

    def test_are_created_again_if_dropped(self, index, url):
        fill(index, "acme/web")
        execute(url, "DROP TABLE search_repository", "DROP TABLE search_index")

        assert [] == found(index)
        fill(index, "acme/web")
        assert ["acme/web"] == found(index)
        assert not index.is_complete()

    def test_of_a_newer_version_prevent_the_start(self, url, opened):
        opened(url)
        execute(url, "UPDATE search_index SET schema = 99".replace("schema", quote(url, INDEX.c.schema.name)))

        with pytest.raises(ConfigError, match="created by a newer version"):
            opened(url)


def quote(url, name):
    return f"`{name}`" if url.startswith("mysql") else f'"{name}"'


class TestASQLiteFile:
    def test_that_was_removed_is_created_again(self, sqlite, opened):
        url = sqlite.create_database()
        index = opened(url)
        fill(index, "acme/web")
        for file in Path(url.removeprefix("sqlite:///")).parent.glob(f"{Path(url).name}*"):
            file.unlink()
        index.put(Entry("acme/api"))

        assert ["acme/api"] == found(opened(url)) == found(index)

    def test_that_is_read_only_prevents_the_start(self, sqlite, tmp_path):
        path = tmp_path / "registry.db"
        sqlite3.connect(path).close()
        with pytest.raises(ConfigError, match="readonly database"):
            open_index("sqlalchemy", f"sqlite:///file:{path}?mode=ro&uri=true")

    def test_in_memory_is_shared_by_all_threads(self, opened):
        index = opened("sqlite://")
        threads = [threading.Thread(target=fill, args=(index, f"acme/n{number}")) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert 8 == index.search("acme").num_results


def connections(server, url):
    """The numbers that a server gives to the connections to a database."""
    name = url.rpartition("/")[2]
    if server.scheme == "postgresql":
        return server.execute(f"SELECT pid FROM pg_stat_activity WHERE datname = '{name}'")
    return server.execute(f"SELECT id FROM information_schema.processlist WHERE db = '{name}'")


def waiting(server, url):
    """The numbers of the connections to a database that wait for the row that all writers lock."""
    name = url.rpartition("/")[2]
    if server.scheme == "postgresql":
        return server.execute(f"SELECT pid FROM pg_stat_activity WHERE datname = '{name}' AND wait_event_type = 'Lock'")
    # Not innodb_trx, which shows nothing new to those who ask more often than ten times a second.
    return server.execute(
        f"SELECT id FROM information_schema.processlist WHERE db = '{name}' AND info LIKE 'SELECT %FOR UPDATE'"
    )


def kill(server, numbers):
    """End connections on the server's side."""
    for number in numbers:
        server.execute(f"SELECT pg_terminate_backend({number})" if server.scheme == "postgresql" else f"KILL {number}")


class TestALostConnection:
    def test_is_renewed(self, server, opened):
        url = server.create_database()
        index = opened(url)
        fill(index, "acme/web")
        for _ in range(3):
            kill(server, connections(server, url))
            assert ["acme/web"] == found(index)
            kill(server, connections(server, url))
            index.put(Entry("acme/web"))
            kill(server, connections(server, url))
            index.put(Entry("acme/api"))
            index.delete("acme/api")

    def test_during_a_change_does_not_lose_the_change(self, server, opened):
        url = server.create_database()
        index = opened(url)
        blocker = Database(url)
        pusher = threading.Thread(target=fill, args=(index, "acme/web"))

        def hold_the_row(connection):
            connection.execute(sqlalchemy.select(INDEX).with_for_update())
            pusher.start()
            kill(server, wait_until(lambda: waiting(server, url)))

        blocker.write(hold_the_row)
        pusher.join(30)
        blocker.close()

        assert ["acme/web"] == found(index)

    def test_to_a_stopped_server_is_an_error_until_it_is_back(self, server, opened, caplog):
        index = opened(server.create_database())
        fill(index, "acme/web")
        server.stop()
        try:
            with pytest.raises(StorageUnavailable) as raised:
                index.search("web")
            assert PASSWORD not in str(raised.value)
        finally:
            server.start()

        assert ["acme/web"] == found(index)

    def test_to_a_server_that_starts_later_is_opened_then(self, server, opened, caplog):
        url = server.create_database()
        server.stop()
        try:
            index = opened(url)
            assert PASSWORD not in caplog.text
        finally:
            server.start()

        index.put(Entry("acme/web"))
        assert ["acme/web"] == found(index)

    def test_with_a_wrong_password_does_not_show_it(self, server, opened, caplog):
        url = server.create_database().replace(PASSWORD, "hunter2")
        index = opened(url)
        with pytest.raises(StorageUnavailable) as raised:
            index.search("web")

        assert "the search index is unavailable" in caplog.text
        assert "hunter2" not in caplog.text + str(raised.value)


#: A worker that waits: prints when its other greenlets have run, and when it has waited. A blocked one is killed.
COOPERATIVE = """
from gevent import monkey
monkey.patch_all()
import signal, sys, gevent, sqlalchemy
from docker_registry.registry.search.backends import open_index
from docker_registry.registry.search.index import Entry

index = open_index("sqlalchemy", sys.argv[1])

def transfer():
    for _ in range(50):
        gevent.sleep(0.005)
    print("served", flush=True)

print("ready", flush=True)
sys.stdin.readline()
signal.alarm(60)
gevent.spawn(transfer)
if len(sys.argv) > 2:
    index._database.read(lambda connection: connection.execute(sqlalchemy.text(sys.argv[2])))
else:
    index.put(Entry("acme/web"))
print("done", flush=True)
"""


class TestAWaitingWorker:
    def check(self, hold, release, *arguments):
        """Hold a lock for which a worker waits until the worker has served other greenlets."""
        with subprocess.Popen(
            [sys.executable, "-c", COOPERATIVE, *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as worker:
            assert "ready\n" == worker.stdout.readline()
            hold()
            worker.stdin.write("\n")
            worker.stdin.flush()
            assert "served\n" == worker.stdout.readline()
            release()
            assert "done\n" == worker.communicate(timeout=60)[0]

    def test_for_a_server_serves_other_greenlets(self, server):
        lock, unlock = "SELECT GET_LOCK('a', 60)", "SELECT RELEASE_LOCK('a')"
        if server.scheme == "postgresql":
            lock, unlock = "SELECT pg_advisory_lock(1)", "SELECT pg_advisory_unlock(1)"
        url = server.create_database()
        other = Database(url)
        other.read(
            lambda connection: self.check(
                lambda: connection.execute(sqlalchemy.text(lock)),
                lambda: connection.execute(sqlalchemy.text(unlock)),
                url,
                lock,
            )
        )
        other.close()

    def test_for_the_lock_of_sqlite_serves_other_greenlets(self, sqlite):
        url = sqlite.create_database()
        other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        self.check(lambda: other.execute("BEGIN IMMEDIATE"), lambda: other.execute("COMMIT"), url)
        other.close()
