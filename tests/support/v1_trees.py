"""Storage trees written by old servers (tests/fixtures/v1), and their content."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

FIXTURES = Path(__file__).parent.parent / "fixtures" / "v1"

NAMES = ("registry-0.7.1", "registry-0.9.1")

#: The public repositories and their tags; a name with further slashes is quoted in the tree.
REPOSITORIES = {
    "registry-0.7.1": {
        "acme/broken": set(),
        "acme/newer": {"latest"},
        "acme/web": {"latest", "v1"},
        "deep/er/name": {"1.0"},
        "library/base": {"latest"},
        "modern/gold-dev": {"v1"},
    },
    "registry-0.9.1": {"a/b/c": {"2.0"}, "library/tool": {"latest"}, "team/app": {"latest"}},
}

#: The private repository, and the images that only it has.
SECRET = "acme/secret"
SECRET_IMAGES = {
    "a5ccabe20c857e8b0a02d9fc5693d8d79abbb57294eae036520deff2f3f95da4",
    "31b0d0384e96dc361d3098ab033487f90423cfa9b6223547c5665b66dfb7c235",
}

#: Its push was interrupted after the layer was received.
UNFINISHED = "9c416c72b09ff6de8180a20f3dc87ca6ae1050c5196a8aa0dcd8982055608091"


def copy(name, target):
    """Copy a tree to a writable place."""
    shutil.copytree(FIXTURES / name, target)
    return target


def put(name, driver):
    """Write a tree to a store of any driver."""
    for path in sorted((FIXTURES / name).rglob("*")):
        if path.is_file():
            driver.put_content(str(path.relative_to(FIXTURES / name)), path.read_bytes())


def images(name):
    """Return every image of a tree with its layer, except those of the private repository."""
    folders = sorted((FIXTURES / name / "images").iterdir())
    return {folder.name: (folder / "layer").read_bytes() for folder in folders if folder.name not in SECRET_IMAGES}


def digests_on_disk(store):
    """Return the digest of every layer that is stored beside an image."""
    return {
        path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(store).glob("images/*/layer")
    }
