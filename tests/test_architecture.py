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
    "wsgi": {"app", "config", "errors", "housekeeping", "logs", "services"},
    "logs": set(),
    "cli": {"app", "cli", "config", "config_text", "errors", "housekeeping", "logs", "registry", "server", "services"},
    "server": {"environment", "errors", "open_files", "patching", "worker"},
    "app": {"api", "drivers", "services"},
    "services": {"config", "drivers", "memory_budget", "registry"},
    "housekeeping": {"errors", "registry", "services"},
    "api": {"api", "body", "errors", "memory_budget", "provenance", "registry"},
    "registry": {
        "client_presence",
        "cpu_pool",
        "drivers.base",
        "errors",
        "job_process",
        "memory_budget",
        "registry",
        "threads",
        "time_slices",
    },
    "drivers": {"alone", "drivers", "errors", "provenance", "settings", "threads"},
    "config": {"config", "drivers", "errors", "flavors", "heritage", "settings"},
    "config_text": {"config", "flavors", "settings"},
    "flavors": {"errors", "heritage", "settings"},
    "heritage": set(),
    "settings": {"errors"},
    "worker": {
        "access_log",
        "alone",
        "client_presence",
        "connections",
        "direct_body",
        "endings",
        "environment",
        "memory_budget",
        "open_files",
        "patching",
        "provenance",
        "repeats",
        "sockets",
        "time_slices",
    },
    "connections": set(),
    "environment": {"errors"},
    "open_files": set(),
    "access_log": {"sockets"},
    "repeats": {"provenance"},
    "provenance": set(),
    "direct_body": set(),
    "endings": {"connections", "direct_body", "sockets"},
    "patching": set(),
    "body": {"errors", "registry.intake"},
    "sockets": {"connections", "direct_body", "memory_budget"},
    "threads": {"provenance"},
    "alone": {"provenance", "threads"},
    "client_presence": {"errors"},
    "cpu_pool": {"client_presence", "drivers.base", "errors", "job_frames", "job_process", "provenance", "threads"},
    "job_frames": set(),
    "job_process": {"drivers.base", "errors", "job_frames"},
    "memory_budget": {"errors"},
    "time_slices": set(),
    "errors": set(),
}

#: Inside the domain: these modules and whom each may look at.
DOMAIN = {
    "names": set(),
    "layout": {"names"},
    "intake": {"block_pool", "names"},
    "block_pool": set(),
    "stored_file": set(),
    "integrity": {"names"},
    "blobs": {"access", "integrity", "layout", "names", "repositories", "stored_file"},
    "upload_sessions": {"layout", "names"},
    "uploads": {"blobs", "intake", "layout", "names", "upload_sessions"},
    "listings": set(),
    "tag_notes": {"layout", "listings", "names"},
    "tags": {
        "bridge.old_tags",
        "conditional_removal",
        "events",
        "immutability",
        "layout",
        "listings",
        "names",
        "tag_notes",
    },
    "media_types": set(),
    "bounded_cache": set(),
    "json_budget": set(),
    "json_scanner": set(),
    "manifest_keys": {"json_scanner"},
    "payloads": {"json_budget", "json_scanner", "manifest_keys", "media_types", "names"},
    "manifest_types": {"layout", "names", "payloads"},
    "manifests": {
        "manifest_types",
        "blobs",
        "bounded_cache",
        "events",
        "json_budget",
        "keyed_locks",
        "layout",
        "names",
        "payloads",
        "referrers",
        "repositories",
        "stored_file",
        "tags",
    },
    "immutability": {"bounded_cache", "json_budget", "names", "payloads"},
    "removal": {"access", "blobs", "immutability", "manifests", "names"},
    "referrers": {
        "blobs",
        "bounded_cache",
        "conditional_removal",
        "json_budget",
        "json_scanner",
        "layout",
        "listings",
        "manifest_types",
        "names",
        "payloads",
        "tags",
    },
    "repositories": {"access", "bridge.paired_names", "catalog", "layout", "listings", "names", "v1.repositories"},
    "conditional_removal": set(),
    "leases": {"layout"},
    "events": set(),
    "keyed_locks": set(),
    "catalog": {"conditional_removal", "layout", "listings", "names"},
    "access": {"layout", "names"},
    "layers.limits": set(),
    "layers.compression": {"layers.limits", "layers.tar_headers"},
    "layers.archives": {"layers.compression", "layers.limits", "names"},
    "layers.tar_headers": set(),
    "layers.tarstream": {"layers.archives", "layers.compression", "layers.tar_headers"},
    "layers.file_lists": {"layers.archives", "layers.compression", "layers.tar_headers", "layers.tarstream"},
    "layers.tarsum": {"layers.archives", "layers.compression", "layers.tar_headers", "layers.tarstream"},
    "v1.tag_notes": {"conditional_removal", "names", "v1.image_layout"},
    "v1.tag_files": {"conditional_removal", "listings", "names", "v1.image_layout"},
    "v1.image_layout": {"layout", "names"},
    "v1.layer_links": {
        "layers.archives",
        "layers.compression",
        "layers.limits",
        "layers.tar_headers",
        "layers.tarsum",
        "names",
    },
    "v1.layer_jobs": {
        "layers.archives",
        "layers.compression",
        "layers.file_lists",
        "layers.limits",
        "layers.tar_headers",
        "layers.tarstream",
        "layers.tarsum",
        "names",
        "v1.layer_links",
    },
    "v1.layer_reader": {"layers.limits", "names", "v1.layer_jobs", "v1.layer_links"},
    "v1.layer_inspections": {"names", "v1.images"},
    "v1.unpacked_layers": {"keyed_locks", "leases", "names", "stored_file", "v1.layer_reader"},
    "v1.kept_answers": {"names"},
    "v1.raw_layers": {"v1.layer_links", "v1.layer_reader"},
    "v1.unfinished": {"names", "v1.image_layout"},
    "v1.private_repositories": {
        "access",
        "bridge.derived_images",
        "bridge.paired_names",
        "events",
        "listings",
        "names",
        "v1.image_layout",
        "v1.images",
        "v1.repositories",
        "v1.tag_files",
    },
    "v1.images": {
        "access",
        "bounded_cache",
        "bridge.derived_images",
        "keyed_locks",
        "layout",
        "names",
        "stored_file",
        "v1.decisions",
        "v1.image_layout",
        "v1.layer_links",
        "v1.layer_reader",
        "v1.raw_layers",
        "v1.unfinished",
    },
    "v1.decisions": {
        "integrity",
        "layout",
        "names",
        "stored_file",
        "v1.image_layout",
        "v1.layer_links",
        "v1.unfinished",
    },
    "v1.received_layers": {"names", "uploads", "v1.image_layout", "v1.layer_links"},
    "v1.pushes": {
        "events",
        "intake",
        "json_scanner",
        "layers.tarsum",
        "names",
        "uploads",
        "v1.decisions",
        "v1.images",
        "v1.layer_inspections",
        "v1.layer_links",
        "v1.layer_reader",
        "v1.received_layers",
        "v1.unfinished",
    },
    "v1.repositories": {
        "bridge.paired_names",
        "catalog",
        "events",
        "json_budget",
        "json_scanner",
        "names",
        "v1.image_layout",
    },
    "v1.tags": {
        "access",
        "bridge.derived_images",
        "bridge.derived_manifests",
        "bridge.paired_names",
        "catalog",
        "events",
        "immutability",
        "layout",
        "names",
        "tags",
        "v1.images",
        "v1.repositories",
        "v1.tag_files",
        "v1.tag_notes",
    },
    "v1.tokens": {"names", "v1.image_layout"},
    "v1.files": {
        "keyed_locks",
        "layers.file_lists",
        "names",
        "v1.image_layout",
        "v1.images",
        "v1.kept_answers",
        "v1.layer_reader",
    },
    "v1.diff_queue": {"names"},
    "v1.migration": {"integrity", "layout", "names", "v1.image_layout", "v1.images", "v1.layer_links"},
    "bridge.image_sources": {
        "bounded_cache",
        "bridge.conversion",
        "json_budget",
        "json_scanner",
        "layout",
        "names",
        "payloads",
    },
    "bridge.paired_names": {"names"},
    "bridge.derived_manifests": {
        "access",
        "blobs",
        "bridge.conversion",
        "bridge.derived_images",
        "keyed_locks",
        "layout",
        "leases",
        "names",
        "stored_file",
        "v1.image_layout",
        "v1.images",
        "v1.layer_links",
        "v1.unpacked_layers",
    },
    "bridge.derived_images": {
        "bounded_cache",
        "bridge.image_sources",
        "json_budget",
        "keyed_locks",
        "layers.tar_headers",
        "layout",
        "names",
        "stored_file",
        "v1.image_layout",
        "v1.layer_links",
        "v1.layer_reader",
        "v1.unpacked_layers",
    },
    "bridge.old_tags": {"bridge.derived_manifests", "bridge.paired_names", "names", "v1.tag_files"},
    "bridge.go_json": set(),
    "bridge.image_structure": {"bridge.go_json"},
    "bridge.conversion": {"bridge.go_json", "bridge.image_structure", "names"},
    "search.entries": {"names", "repositories", "search.index", "v1.private_repositories", "v1.repositories"},
    "maintenance.backup_folder": set(),
    "maintenance.copy_report": {"names"},
    "maintenance.store_paths": {"layout", "names", "v1.image_layout", "v1.layer_links"},
    "maintenance.backup": {
        "layout",
        "maintenance.backup_folder",
        "maintenance.copy_report",
        "maintenance.store_paths",
        "names",
        "payloads",
        "v1.image_layout",
    },
    "maintenance.restoration": {
        "integrity",
        "layout",
        "maintenance.backup_folder",
        "maintenance.copy_report",
        "maintenance.store_paths",
        "names",
        "v1.image_layout",
    },
    "search.index": {"search.sql"},
    "search.database": set(),
    "search.schema": {"names", "search.index"},
    "search.sql": {"search.database", "search.index", "search.schema"},
    "search.updates": {"events", "names", "search.index"},
}

#: Among the drivers: each room, and whom it may look at. A store knows no other one; Glance has Swift beside it.
DRIVERS = {
    "base": set(),
    "file": {"base", "file"},
    "memory": {"base"},
    "chunks": {"base"},
    "objects": {"base"},
    "store_identity": {"base"},
    "testing": {"base", "testing"},
    "cache": {"base", "cache"},
    "s3": {"base", "objects", "s3"},
    "swift": {"base", "objects", "swift"},
    "glance": {"base", "glance", "swift"},
    "gcs": {"base", "chunks", "gcs", "objects"},
    "azureblob": {"azureblob", "base", "chunks", "objects"},
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


def module(found):
    """Return the module of the domain that an import names, or names something of."""
    name = found.removeprefix("registry.")
    return next((known for known in DOMAIN if name == known or name.startswith(f"{known}.")), name)


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
        path = PACKAGE / "registry" / f"{name.replace('.', '/')}.py"
        inside = {module(found) for found in imports(path) if found.startswith("registry.")}
        assert inside <= DOMAIN[name]

    def test_has_arrows_for_every_module(self):
        domain = PACKAGE / "registry"
        found = {path.relative_to(domain).with_suffix("") for path in domain.rglob("*.py") if path.stem != "__init__"}
        assert set(DOMAIN) == {".".join(path.parts) for path in found}

    def test_needs_neither_the_web_framework_nor_a_cloud(self):
        program = (
            "import sys, docker_registry.registry; "
            "print(sorted({'flask', 'werkzeug', 'gunicorn', 'boto3', 'redis', 'sqlalchemy'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
        assert "[]\n" == done.stdout


class TestTheDrivers:
    @pytest.mark.parametrize("name", DRIVERS)
    def test_look_only_where_their_arrows_point(self, name):
        paths = [*(PACKAGE / "drivers").glob(f"{name}.py"), *(PACKAGE / "drivers" / name).glob("*.py")]
        assert paths
        inside = {found.split(".")[1] for path in paths for found in imports(path) if found.startswith("drivers.")}
        assert inside <= DRIVERS[name]

    def test_have_arrows_for_every_module(self):
        assert set(DRIVERS) == {path.stem for path in (PACKAGE / "drivers").iterdir()} - {"__init__", "__pycache__"}
