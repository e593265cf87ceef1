"""
Duration of a search among 100 000 repositories, and of reindexing them.

::

    python contrib/bench/search.py [URL …]

Each URL is that of an empty database; by default SQLite in a temporary file.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from docker_registry.registry.search.backends import open_index
from docker_registry.registry.search.index import Entry, SearchIndex

REPOSITORIES = 100_000
ROUNDS = 15

WORDS = """
    admin api app auth back base build cache core data demo dev edge front gateway go infer iot java lib log mail metric
    model mon nginx node ops postgres prod proxy python queue redis rust stage test trace train web worker
"""

QUERIES = {
    "nothing": "no-such-name",
    "part of a word": "ngin",
    "a frequent word": "web",
    "a letter": "a",
    "everything": "",
}


def names() -> list[str]:
    """Return realistic names in random order."""
    chance = random.Random(1)
    words = WORDS.split()
    found: dict[str, None] = {}
    while len(found) < REPOSITORIES:
        team = f"{chance.choice(words)}-{chance.choice(words)}{chance.randrange(100)}"
        found[f"{team}/{chance.choice(words)}{chance.choice('-_.')}{chance.choice(words)}{chance.randrange(1000)}"] = (
            None
        )
    return list(found)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the median and the longest time of some rounds, in milliseconds."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times), max(times)


def measure(index: SearchIndex) -> Iterator[str]:
    """Fill an index and yield a line for each measurement."""
    repositories = names()
    began = time.perf_counter()
    index.reindex(map(Entry, repositories))
    yield f"reindex {REPOSITORIES} repositories: {time.perf_counter() - began:.1f} s"
    for title, query in {"one name": repositories[0], **QUERIES}.items():
        median, longest = timed(lambda query=query: index.search(query))  # type: ignore[misc]
        count = index.search(query).num_results
        yield f"search {title}: {median:.1f} ms (longest {longest:.1f}), {count} found"
    fresh = iter(range(ROUNDS))
    median, longest = timed(lambda: index.put(Entry(f"bench/new{next(fresh)}")))
    yield f"put a new repository: {median:.1f} ms (longest {longest:.1f})"
    median, longest = timed(lambda: index.put(Entry("bench/new0")))
    yield f"put a known one: {median:.1f} ms (longest {longest:.1f})"


def main(urls: list[str]) -> None:
    """Measure each database."""
    with tempfile.TemporaryDirectory() as folder:
        for url in urls or [f"sqlite:///{folder}/search.db"]:
            index = open_index("sqlalchemy", url)
            print(url.partition(":")[0])
            for line in measure(index):
                print(f"  {line}")
            index.close()


if __name__ == "__main__":
    main(sys.argv[1:])
