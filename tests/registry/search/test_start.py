"""Any number of processes may open the search database at the same time, whatever it contains."""

from __future__ import annotations

import multiprocessing
import sqlite3
import traceback

import pytest

from docker_registry.registry.search.backends import open_index
from docker_registry.registry.search.database import Database
from docker_registry.registry.search.index import Entry
from docker_registry.registry.search.schema import prepare
from tests.registry.search.test_sql import NAMES_0_7_1, found, old_database

PROCESSES = 8

ROUNDS = [pytest.param(1, id="once"), pytest.param(50, id="50 times", marks=pytest.mark.slow)]


def start(number, barrier, urls, answers):
    """In every round, open the index as a starting worker does, and add a push at once."""
    for url in urls:
        barrier.wait(60)
        try:
            database = Database(url)
            database.write_exclusively(lambda connection: prepare(connection, None))  # as opening does, but only once
            database.close()
            index = open_index("sqlalchemy", url)
            index.put(Entry(f"pushed/n{number}"))
            index.put(Entry("pushed/all"))
            index.close()
            answers.put((url, None))
        except Exception:  # noqa: BLE001 - the test prints it
            answers.put((url, traceback.format_exc()))


def clean_processes():
    """Return a context whose processes share nothing with this one, and import the index once for all of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def race(urls):
    """Let many processes open each database at the same moment, and return their errors."""
    context = clean_processes()
    barrier, answers = context.Barrier(PROCESSES), context.Queue()
    workers = [
        context.Process(target=start, args=(number, barrier, urls, answers), daemon=True) for number in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    failures = [failure for _, failure in (answers.get(timeout=300) for _ in range(PROCESSES * len(urls))) if failure]
    for worker in workers:
        worker.join(60)
    return failures


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def databases(request):
    return request.getfixturevalue(request.param)


PUSHED = ["pushed/all", *(f"pushed/n{number}" for number in range(PROCESSES))]


def content(url):
    index = open_index("sqlalchemy", url)
    try:
        return found(index)
    finally:
        index.close()


@pytest.mark.parametrize("rounds", ROUNDS)
class TestEightProcessesStartedAtOnce:
    def test_all_start_on_an_empty_a_current_and_an_old_database(self, databases, rounds):
        empty = [databases.create_database() for _ in range(rounds)]
        current = [databases.create_database()] * (rounds + 1)  # empty for the first of them
        old = [old_database("0.7.1", databases) for _ in range(rounds)]

        assert [] == race([*empty, *current, *old])

        assert [PUSHED] * rounds == [content(url) for url in empty]
        assert PUSHED == content(current[0])
        assert [sorted(NAMES_0_7_1 + PUSHED)] * rounds == [content(url) for url in old]


class TestAProcessKilledWhileItCreatesTheTables:
    def test_does_not_prevent_other_starts(self, sqlite):
        url = sqlite.create_database()
        context = clean_processes()
        ready = context.Event()
        killed = context.Process(target=hold_lock, args=(url.removeprefix("sqlite:///"), ready), daemon=True)
        killed.start()
        assert ready.wait(60)
        killed.kill()
        killed.join(60)

        assert [] == content(url)


def hold_lock(path, ready):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("CREATE TABLE search_repository (name VARCHAR)")
    ready.set()
    multiprocessing.Event().wait(60)
