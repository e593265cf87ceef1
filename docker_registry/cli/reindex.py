"""``docker-registry reindex``: rebuild the search index and the list of private repositories from the store."""

from __future__ import annotations

import argparse
import json
from typing import Final

from docker_registry.cli.command import Command, add_json, load_store_config
from docker_registry.cli.progress import counted


def run(chosen: argparse.Namespace) -> int:
    """Rebuild the search index and the list of private repositories from the store."""
    from docker_registry import services
    from docker_registry.registry.search.index import NullIndex

    with services.build(load_store_config()) as built:
        private, indexed = built.registry.private_repositories.adopt(), None
        if not isinstance(built.search_index, NullIndex):
            missed = built.search_updates.missed
            notes = missed.all()
            indexed = built.search_index.reindex(counted(built.search_entries.all(), "repositories"))
            missed.forget(notes)
    if chosen.json:
        print(json.dumps({"private_repositories": private, "indexed_repositories": indexed}))
        return 0
    print(f"{private} private repositories")
    if indexed is None:
        print("the search index is off: search_backend is not set")
    else:
        print(f"{indexed} repositories in the search index")
    return 0


COMMAND: Final = Command(
    "reindex", "rebuild the search index, and find private repositories anew", run, add_json, lambda _: True
)
