"""``docker-registry reindex``: rebuild the search index and the list of private repositories from the store."""

from __future__ import annotations

import argparse
from typing import Final

from docker_registry.cli.command import Command, load_config


def run(_: argparse.Namespace) -> int:
    """Rebuild the search index from the store, and find private repositories."""
    from docker_registry import app
    from docker_registry.registry.search.index import NullIndex

    config = load_config()
    registry = app.create_registry(config)
    print(f"{registry.visibility.adopt()} private repositories")
    index = app.create_search(config, registry)
    if isinstance(index, NullIndex):
        print("there is no search index: search_backend is not set")
        return 0
    try:
        print(f"{index.reindex(registry.search_entries.all())} repositories in the search index")
    finally:
        index.close()
    return 0


COMMAND: Final = Command("reindex", "rebuild the search index, and find private repositories anew", run)
