"""The arrows of the house (CONTRIBUTE.md): who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "docker_registry"

#: Room to the rooms that it may look into. Whoever is not named here may import nothing of the house.
ARROWS = {
    "wsgi": {"app", "config", "errors", "logs"},
    "logs": set(),
    "cli": {"app", "config", "config_text", "errors", "maintenance", "registry", "server"},
    "maintenance": {"app", "config", "errors", "logs", "registry"},
    "server": {"errors"},
    "app": {"api", "body", "config", "drivers", "errors", "registry", "threads"},
    "api": {"api", "body", "errors", "registry"},
    "registry": {"drivers.base", "errors", "registry", "threads"},
    "drivers": {"drivers", "errors", "settings", "threads"},
    "config": {"config", "drivers", "errors", "flavors", "heritage", "settings"},
    "config_text": {"config", "flavors", "settings"},
    "flavors": {"errors", "heritage", "settings"},
    "heritage": set(),
    "settings": {"errors"},
    "worker": {"direct_body"},
    "direct_body": set(),
    "body": {"errors"},
    "sockets": set(),
    "threads": set(),
    "errors": set(),
}

#: Inside the domain: these modules and whom each may look at.
DOMAIN = {
    "names": set(),
    "layout": {"names"},
    "intake": {"names"},
    "stored_file": set(),
    "blobs": {"layout", "names", "repositories", "stored_file"},
    "uploads": {"blobs", "intake", "layout", "names"},
    "listings": set(),
    "tags": {"events", "layout", "listings", "names", "old_tags"},
    "payloads": {"names"},
    "manifests": {"blobs", "events", "layout", "names", "payloads", "referrers", "repositories", "tags"},
    "referrers": {"blobs", "layout", "names", "payloads", "tags"},
    "repositories": {"catalog", "image_repositories", "layout", "listings", "names", "paired_names"},
    "leases": {"layout"},
    "compression": {"tar_headers"},
    "archives": {"compression", "names"},
    "tar_headers": set(),
    "tarstream": {"archives", "compression", "tar_headers"},
    "layers": {"archives", "compression", "tar_headers", "tarstream"},
    "tarsum": {"archives", "compression", "tar_headers", "tarstream"},
    "events": set(),
    "keyed_locks": set(),
    "unpacked_file": {"archives", "stored_file"},
    "image_sources": {"image_conversion", "layout", "names", "payloads"},
    "image_tag_files": {"image_layout", "listings", "names"},
    "paired_names": {"names"},
    "derived_manifests": {
        "archives",
        "blobs",
        "derived_images",
        "image_conversion",
        "image_layout",
        "images",
        "keyed_locks",
        "layer_links",
        "layout",
        "leases",
        "names",
        "stored_file",
        "uploads",
    },
    "derived_images": {
        "archives",
        "compression",
        "image_layout",
        "image_sources",
        "keyed_locks",
        "layer_links",
        "layout",
        "names",
        "stored_file",
        "tar_headers",
        "unpacked_file",
    },
    "catalog": {"layout", "listings", "names"},
    "old_tags": {"derived_manifests", "image_tag_files", "names", "paired_names"},
    "go_json": set(),
    "image_structure": {"go_json"},
    "image_conversion": {"go_json", "image_structure", "names"},
    "image_layout": {"layout", "names"},
    "layer_links": {"archives", "compression", "names", "tar_headers", "tarsum"},
    "raw_layers": {"layer_links", "names", "tarstream", "tarsum"},
    "unfinished": {"image_layout", "names"},
    "images": {
        "derived_images",
        "image_layout",
        "keyed_locks",
        "layer_links",
        "layout",
        "names",
        "raw_layers",
        "stored_file",
        "unfinished",
    },
    "image_pushes": {
        "archives",
        "events",
        "image_layout",
        "unfinished",
        "images",
        "intake",
        "layer_links",
        "names",
        "tarstream",
        "tarsum",
        "uploads",
    },
    "image_repositories": {"catalog", "events", "image_layout", "names", "paired_names"},
    "image_tags": {
        "catalog",
        "derived_images",
        "derived_manifests",
        "events",
        "image_layout",
        "image_repositories",
        "image_tag_files",
        "images",
        "names",
        "paired_names",
        "tags",
    },
    "tokens": {"image_layout", "names"},
    "image_files": {"archives", "image_layout", "images", "keyed_locks", "layers", "names", "stored_file", "tarstream"},
    "diff_queue": {"names"},
    "migrate": {"image_layout", "images", "layer_links", "layout", "names"},
    "visibility": {
        "derived_images",
        "events",
        "image_layout",
        "image_repositories",
        "image_tag_files",
        "images",
        "listings",
        "names",
    },
    "search_entries": {"image_repositories", "names", "repositories", "search", "visibility"},
    "search": {"search_sql"},
    "search_database": set(),
    "search_schema": {"names", "search"},
    "search_sql": {"search", "search_database", "search_schema"},
    "search_updates": {"events", "names", "search"},
}


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


def imports(path):
    """Return what a module imports of the house, without the package's own name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("docker_registry.") for name in found if name.startswith("docker_registry.")}


def room(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
class TestAModule:
    def test_looks_only_where_the_arrows_point(self, path):
        allowed = {*ARROWS[room(path)], "__version__"}
        for name in imports(path):
            assert any(name == target or name.startswith(f"{target}.") for target in allowed), name

    def test_does_nothing_when_it_is_imported(self, path):
        allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.Assert)
        for node in ast.parse(path.read_text()).body:
            if path.stem == "wsgi" or isinstance(node, allowed):
                continue
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            is_guard = isinstance(node, ast.If) and ("TYPE_CHECKING" in ast.dump(node) or "__main__" in ast.dump(node))
            assert is_docstring or is_guard or "sys" in ast.dump(node), ast.dump(node)[:200]


class TestTheDomain:
    @pytest.mark.parametrize("name", DOMAIN)
    def test_looks_only_where_its_arrows_point(self, name):
        path = PACKAGE / "registry" / f"{name}.py"
        inside = {found.split(".")[1] for found in imports(path) if found.startswith("registry.")}
        assert inside <= DOMAIN[name]

    def test_has_arrows_for_every_module(self):
        assert set(DOMAIN) == {path.stem for path in (PACKAGE / "registry").glob("*.py")} - {"__init__"}

    def test_needs_neither_the_web_framework_nor_a_cloud(self):
        program = (
            "import sys, docker_registry.registry; "
            "print(sorted({'flask', 'werkzeug', 'gunicorn', 'boto3', 'redis', 'sqlalchemy'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
        assert "[]\n" == done.stdout
