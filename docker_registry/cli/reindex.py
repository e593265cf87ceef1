"""``docker-registry reindex``: rebuild the search index and the list of private repositories from the store."""

from __future__ import annotations

import argparse
from typing import Final

from docker_registry.cli.command import Command, load_config


def run(_: argparse.Namespace) -> int:
    """Rebuild the search index and the list of private repositories from the store."""
    from docker_registry import services
    from docker_registry.registry.search.index import NullIndex

    with services.build(load_config()) as built:
        print(f"{built.registry.private_repositories.adopt()} private repositories")
        if isinstance(built.search_index, NullIndex):
            print("the search index is off: search_backend is not set")
        else:
            entries = built.search_entries.all()
            print(f"{built.search_index.reindex(entries)} repositories in the search index")
    return 0


COMMAND: Final = Command("reindex", "rebuild the search index, and find private repositories anew", run)
