"""What may import what (docs/architecture.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "docker_registry"

#: What each module or package at the top level may import of the project.
IMPORTS = {
    "wsgi": {"app", "config.schema", "errors", "housekeeping", "logs", "services"},
    "cli": {"app", "auth", "cli", "config", "errors", "housekeeping", "logs", "registry", "server.launch", "services"},
    "app": {"api", "config.schema", "drivers", "errors", "services"},
    "housekeeping": {"errors", "registry", "services"},
    "services": {
        "auth",
        "config.schema",
        "drivers",
        "error_reports",
        "exchange",
        "health",
        "memory_budget",
        "redaction",
        "registry",
    },
    "config": {"config", "drivers", "errors", "settings"},
    "api": {
        "api",
        "auth",
        "dependencies",
        "error_reports.report",
        "errors",
        "exchange",
        "health",
        "memory_budget",
        "old_clients",
        "registry",
    },
    "auth": {"auth", "concurrency", "dependencies", "errors", "registry.access", "registry.actor", "registry.names"},
    "registry": {
        "client_presence",
        "concurrency",
        "cpu_pool",
        "drivers.base",
        "errors",
        "memory_budget",
        "registry",
        "time_slices",
    },
    "drivers": {"alone", "concurrency", "dependencies", "drivers", "errors", "settings"},
    "server": {
        "alone",
        "client_presence",
        "dependencies",
        "environment",
        "health",
        "errors",
        "exchange",
        "memory_budget",
        "old_clients",
        "open_files",
        "server",
        "time_slices",
        "worker",
    },
    "cpu_pool": {"client_presence", "concurrency", "cpu_pool", "dependencies", "drivers.base", "errors"},
    "alone": {"concurrency", "dependencies"},
    "concurrency": {"dependencies"},
    "client_presence": {"errors"},
    "environment": {"errors"},
    "memory_budget": {"errors"},
    "settings": {"errors"},
    "error_reports": {"error_reports", "errors", "redaction", "settings"},
    "redaction": set(),
    "health": {"errors"},
    "time_slices": set(),
    "old_clients": set(),
    "open_files": set(),
    "logs": set(),
    "dependencies": set(),
    "errors": set(),
    "exchange": set(),
    # Former places of documented names.
    "worker": {"server.worker"},
    "threads": {"concurrency"},
}

#: What each module of the domain may import of it.
DOMAIN = {
    "names": set(),
    "layout": {"names"},
    "ingest": {"buffer_pool", "names"},
    "buffer_pool": set(),
    "stored_file": set(),
    "integrity": {"names"},
    "blobs": {"access", "actor", "integrity", "layout", "names", "repositories", "stored_file"},
    "upload_sessions": {"layout", "names"},
    "uploads": {"blobs", "ingest", "layout", "names", "upload_sessions"},
    "listing_cache": set(),
    "tag_back_references": {"layout", "listing_cache", "names"},
    "tags": {
        "bridge.v1_tag_source",
        "conditional_removal",
        "events",
        "immutability",
        "layout",
        "listing_cache",
        "names",
        "tag_back_references",
    },
    "media_types": set(),
    "bounded_cache": set(),
    "json_budget": set(),
    "json_scanner": set(),
    "manifest_keys": {"json_scanner"},
    "manifest_payload": {"json_budget", "json_scanner", "manifest_keys", "media_types", "names"},
    "manifest_types": {"layout", "names", "manifest_payload"},
    "manifests": {
        "manifest_types",
        "blobs",
        "bounded_cache",
        "events",
        "json_budget",
        "keyed_locks",
        "layout",
        "names",
        "manifest_payload",
        "referrers",
        "repositories",
        "stored_file",
        "tags",
    },
    "immutability": {"bounded_cache", "json_budget", "names", "manifest_payload"},
    "removal": {"access", "blobs", "immutability", "manifests", "names"},
    "referrers": {
        "blobs",
        "bounded_cache",
        "conditional_removal",
        "json_budget",
        "json_scanner",
        "layout",
        "listing_cache",
        "manifest_types",
        "names",
        "manifest_payload",
        "tags",
    },
    "repositories": {
        "access",
        "actor",
        "bridge.name_mapping",
        "catalog",
        "layout",
        "listing_cache",
        "names",
        "v1.repositories",
    },
    "conditional_removal": set(),
    "leases": {"layout"},
    "events": set(),
    "keyed_locks": set(),
    "catalog": {"conditional_removal", "layout", "listing_cache", "names"},
    "access": {"actor", "layout", "names"},
    "actor": set(),
    "layers.limits": set(),
    "layers.compression": {"layers.limits", "layers.tar_headers"},
    "layers.archives": {"layers.compression", "layers.limits", "names"},
    "layers.tar_headers": set(),
    "layers.tarstream": {"layers.archives", "layers.compression", "layers.tar_headers"},
    "layers.file_lists": {"layers.archives", "layers.compression", "layers.tar_headers", "layers.tarstream"},
    "layers.tarsum": {"layers.archives", "layers.compression", "layers.tar_headers", "layers.tarstream"},
    "v1.tag_notes": {"conditional_removal", "names", "v1.image_layout"},
    "v1.tag_files": {"conditional_removal", "listing_cache", "names", "v1.image_layout"},
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
    "v1.stored_results": {"names"},
    "v1.legacy_layers": {"v1.layer_links", "v1.layer_reader"},
    "v1.pending_pushes": {"names", "v1.image_layout"},
    "v1.private_repositories": {
        "access",
        "actor",
        "bridge.derived_images",
        "bridge.name_mapping",
        "events",
        "listing_cache",
        "names",
        "v1.image_layout",
        "v1.images",
        "v1.repositories",
        "v1.tag_files",
    },
    "v1.images": {
        "access",
        "actor",
        "bounded_cache",
        "bridge.derived_images",
        "keyed_locks",
        "layout",
        "names",
        "stored_file",
        "v1.image_commits",
        "v1.image_layout",
        "v1.layer_links",
        "v1.layer_reader",
        "v1.legacy_layers",
        "v1.pending_pushes",
    },
    "v1.image_commits": {
        "integrity",
        "layout",
        "names",
        "stored_file",
        "v1.image_layout",
        "v1.layer_links",
        "v1.pending_pushes",
    },
    "v1.staged_layers": {"names", "uploads", "v1.image_layout", "v1.layer_links"},
    "v1.pushes": {
        "events",
        "ingest",
        "json_scanner",
        "layers.tarsum",
        "names",
        "uploads",
        "v1.image_commits",
        "v1.images",
        "v1.layer_inspections",
        "v1.layer_links",
        "v1.layer_reader",
        "v1.staged_layers",
        "v1.pending_pushes",
    },
    "v1.repositories": {
        "bridge.name_mapping",
        "catalog",
        "events",
        "json_budget",
        "json_scanner",
        "names",
        "v1.image_layout",
    },
    "v1.tags": {
        "access",
        "actor",
        "bridge.derived_images",
        "bridge.derived_manifests",
        "bridge.name_mapping",
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
        "v1.stored_results",
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
        "manifest_payload",
    },
    "bridge.name_mapping": {"names"},
    "bridge.derived_manifests": {
        "access",
        "actor",
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
    "bridge.v1_tag_source": {"bridge.derived_manifests", "bridge.name_mapping", "names", "v1.tag_files"},
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
        "manifest_payload",
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

#: What each driver may import of the others. A driver knows no other one; Glance uses Swift.
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
    """Return what a module imports of the project, without the name of the package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("docker_registry.") for name in found if name.startswith("docker_registry.")}


def module(found):
    """Return the module of the domain that an import refers to."""
    name = found.removeprefix("registry.")
    return next((known for known in DOMAIN if name == known or name.startswith(f"{known}.")), name)


def top_level(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
class TestAModule:
    def test_imports_only_what_it_may(self, path):
        allowed = {*IMPORTS[top_level(path)], "__version__"}
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
    def test_imports_only_what_it_may(self, name):
        path = PACKAGE / "registry" / f"{name.replace('.', '/')}.py"
        inside = {module(found) for found in imports(path) if found.startswith("registry.")}
        assert inside <= DOMAIN[name]

    def test_is_listed_here_module_by_module(self):
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
    def test_import_only_what_they_may(self, name):
        paths = [*(PACKAGE / "drivers").glob(f"{name}.py"), *(PACKAGE / "drivers" / name).glob("*.py")]
        assert paths
        inside = {found.split(".")[1] for path in paths for found in imports(path) if found.startswith("drivers.")}
        assert inside <= DRIVERS[name]

    def test_are_all_listed_here(self):
        assert set(DRIVERS) == {path.stem for path in (PACKAGE / "drivers").iterdir()} - {"__init__", "__pycache__"}
