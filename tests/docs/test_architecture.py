"""What may import what (docs/architecture.md)."""

from __future__ import annotations

import ast
import functools
import inspect
import subprocess
import sys
from pathlib import Path

from docker_registry.drivers.memory import MemoryDriver
from tests.support.registries import Registry

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "docker_registry"

#: What each module or package at the top level may import of the project.
IMPORTS = {
    "wsgi": {"app", "config.schema", "errors", "housekeeping", "logs", "services"},
    "cli": {
        "app",
        "auth",
        "cli",
        "config",
        "doctor",
        "errors",
        "housekeeping",
        "http.clients",
        "logs",
        "metrics",
        "registry",
        "server.launch",
        "server.master",
        "services",
    },
    "app": {"api", "auth", "config.schema", "drivers", "errors", "registry", "services"},
    "doctor": {"doctor"},
    "housekeeping": {"errors", "metrics", "registry", "services"},
    "services": {
        "auth",
        "concurrency",
        "config.schema",
        "config.sections",
        "drivers",
        "error_reports",
        "errors",
        "http",
        "logs",
        "metrics",
        "registry",
        "resources",
        "server.brief_calls",
        "services",
        "tracing",
    },
    "config": {"config", "drivers", "errors", "settings"},
    "api": {
        "api",
        "auth",
        "dependencies",
        "error_reports.report",
        "errors",
        "http",
        "metrics",
        "registry",
        "resources.memory_budget",
    },
    "auth": {
        "auth",
        "concurrency",
        "cpu_pool",
        "dependencies",
        "drivers.base",
        "errors",
        "http.clients",
        "registry.access",
        "registry.actor",
        "registry.bounded_cache",
        "registry.layout",
        "registry.names",
        "registry.stored_document",
        "resources.circuit_breaker",
    },
    "registry": {"concurrency", "cpu_pool", "drivers.base", "drivers.paths", "errors", "registry", "resources"},
    "drivers": {"concurrency", "dependencies", "drivers", "errors", "settings"},
    "server": {"concurrency", "dependencies", "errors", "http", "logs", "resources", "server"},
    "cpu_pool": {
        "concurrency",
        "cpu_pool",
        "dependencies",
        "drivers.base",
        "errors",
    },
    "error_reports": {"error_reports", "errors", "http.exchange", "settings"},
    "metrics": {"concurrency", "drivers.measured", "errors", "http.exchange", "metrics"},
    "logs": {"concurrency", "errors", "http.exchange", "logs"},
    "http": {"errors"},
    "resources": {"errors", "resources"},
    "concurrency": {"dependencies", "errors"},
    "settings": {"errors"},
    "tracing": {"errors", "http.exchange"},
    "dependencies": set(),
    "errors": set(),
    # Deprecated and documented names.
    "worker": {"server.worker"},
    "threads": {"concurrency"},
}

#: What each module of the domain may import of it.
DOMAIN = {
    "access": {"actor", "layout", "names"},
    "actor": set(),
    "blobs": {
        "access",
        "actor",
        "layout",
        "names",
        "reclamation",
        "repositories",
        "sources",
        "store_removal",
        "stored_file",
    },
    "bounded_cache": set(),
    "deferred_failures": set(),
    "events": {"actor"},
    "immutability": {"bounded_cache", "manifest_payload", "names"},
    "ingest": {"names"},
    "json_scanner": set(),
    "layout": {"names"},
    "leases": {"layout", "store_removal", "stored_document"},
    "read_only": {"layout", "store_removal"},
    "listing_cache": set(),
    "manifest_keys": {"json_scanner"},
    "manifest_payload": {"json_scanner", "manifest_keys", "names"},
    "manifest_pushes": {
        "actor",
        "blobs",
        "events",
        "layout",
        "manifest_payload",
        "manifests",
        "names",
        "referrers",
        "repositories",
        "tag_changes",
        "tags",
    },
    "manifests": {
        "actor",
        "blobs",
        "bounded_cache",
        "layout",
        "manifest_payload",
        "names",
        "sources",
        "stored_file",
        "tags",
    },
    "names": set(),
    "oci_registry": {
        "access",
        "blobs",
        "deferred_failures",
        "immutability",
        "ingest",
        "layout",
        "leases",
        "listing_cache",
        "manifest_pushes",
        "manifests",
        "private_repositories",
        "reclamation",
        "references",
        "referrers",
        "removal",
        "repositories",
        "sources",
        "tags",
        "uploads",
    },
    "private_repositories": {"access", "actor", "layout", "listing_cache", "names", "store_removal"},
    "referrer_pages": set(),
    "referrers": {
        "blobs",
        "bounded_cache",
        "json_scanner",
        "layout",
        "listing_cache",
        "manifest_payload",
        "manifests",
        "names",
        "referrer_pages",
        "referrer_removal",
        "sources",
        "store_removal",
        "tags",
    },
    "referrer_removal": {"store_removal"},
    "reclamation": {"deferred_failures", "layout", "names", "references", "store_removal", "stored_document"},
    "references": {"bounded_cache", "layout", "names", "repositories"},
    "removal": {
        "access",
        "actor",
        "blobs",
        "immutability",
        "layout",
        "manifest_payload",
        "manifests",
        "names",
        "referrers",
        "store_removal",
        "tags",
    },
    "repositories": {
        "access",
        "actor",
        "deferred_failures",
        "layout",
        "listing_cache",
        "names",
        "sources",
        "store_removal",
    },
    "sources": {"actor", "listing_cache", "names", "stored_file"},
    "store_removal": set(),
    "stored_document": set(),
    "stored_file": {"names"},
    "tag_changes": {
        "actor",
        "immutability",
        "layout",
        "names",
        "sources",
        "store_removal",
        "tag_links",
    },
    "tag_links": {"layout", "listing_cache", "names", "store_removal"},
    "tag_locks": {"names"},
    "tags": {
        "actor",
        "events",
        "immutability",
        "listing_cache",
        "names",
        "sources",
        "tag_changes",
        "tag_links",
        "tag_locks",
    },
    "upload_sessions": {"deferred_failures", "layout", "names"},
    "uploads": {"actor", "blobs", "ingest", "layout", "names", "sources", "upload_sessions"},
    "layers.archives": {"layers.compression", "layers.limits", "names"},
    "layers.compression": {"layers.limits", "layers.tar_headers"},
    "layers.file_lists": {"layers.tar_headers"},
    "layers.limits": set(),
    "layers.tar_headers": set(),
    "layers.tarstream": {"layers.tar_headers"},
    "layers.tarsum": {"layers.archives", "layers.limits", "layers.tar_headers", "layers.tarstream"},
    "v1.diff_queue": {"names"},
    "v1.files": {
        "actor",
        "layers.file_lists",
        "names",
        "v1.image_layout",
        "v1.images",
        "v1.layer_reader",
        "v1.stored_results",
    },
    "v1.image_commits": {
        "layout",
        "names",
        "store_removal",
        "stored_file",
        "v1.image_layout",
        "v1.layer_links",
        "v1.pending_pushes",
    },
    "v1.image_layout": {"layout", "names"},
    "v1.image_memberships": {
        "access",
        "actor",
        "bounded_cache",
        "json_scanner",
        "layout",
        "listing_cache",
        "names",
        "store_removal",
        "v1.image_layout",
        "v1.sources",
    },
    "v1.image_pulls": {
        "access",
        "actor",
        "names",
        "sources",
        "stored_file",
        "v1.image_memberships",
        "v1.images",
        "v1.repositories",
        "v1.sources",
        "v1.tags",
    },
    "v1.images": {
        "access",
        "actor",
        "bounded_cache",
        "names",
        "stored_file",
        "v1.image_commits",
        "v1.image_layout",
        "v1.layer_links",
        "v1.layer_reader",
        "v1.legacy_layers",
        "v1.pending_pushes",
        "v1.sources",
    },
    "v1.layer_inspections": {"names", "v1.images"},
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
    "v1.layer_links": {"layers.compression", "layers.tar_headers", "names"},
    "v1.layer_reader": {"layers.limits", "names", "v1.layer_jobs", "v1.layer_links"},
    "v1.legacy_layers": {"v1.layer_links", "v1.layer_reader"},
    "v1.legacy_registry": {
        "oci_registry",
        "v1.files",
        "v1.image_commits",
        "v1.image_memberships",
        "v1.image_pulls",
        "v1.images",
        "v1.layer_inspections",
        "v1.layer_reader",
        "v1.pending_pushes",
        "v1.private_images",
        "v1.pushes",
        "v1.repositories",
        "v1.sources",
        "v1.tag_files",
        "v1.tag_pushes",
        "v1.tags",
        "v1.tokens",
    },
    "v1.migration": {
        "actor",
        "layout",
        "names",
        "store_removal",
        "stored_file",
        "v1.image_layout",
        "v1.images",
        "v1.layer_links",
    },
    "v1.pending_pushes": {
        "actor",
        "ingest",
        "json_scanner",
        "names",
        "store_removal",
        "uploads",
        "v1.image_layout",
        "v1.layer_links",
    },
    "v1.private_images": {
        "access",
        "actor",
        "events",
        "layout",
        "names",
        "private_repositories",
        "store_removal",
        "v1.image_layout",
        "v1.image_memberships",
        "v1.images",
        "v1.repositories",
        "v1.sources",
        "v1.tag_files",
    },
    "v1.pushes": {
        "actor",
        "events",
        "ingest",
        "names",
        "uploads",
        "v1.image_commits",
        "v1.images",
        "v1.layer_inspections",
        "v1.layer_links",
        "v1.layer_reader",
        "v1.pending_pushes",
    },
    "v1.repositories": {
        "actor",
        "events",
        "json_scanner",
        "layout",
        "names",
        "repositories",
        "store_removal",
        "v1.image_layout",
        "v1.image_memberships",
    },
    "v1.sources": {"names", "sources", "stored_file", "v1.layer_links"},
    "v1.stored_results": {"names"},
    "v1.tag_files": {"layout", "listing_cache", "names", "store_removal", "tag_links", "v1.image_layout"},
    "v1.tag_json": {"layout", "names", "store_removal", "v1.image_layout"},
    "v1.tag_pushes": {
        "access",
        "actor",
        "events",
        "layout",
        "manifests",
        "names",
        "tags",
        "v1.image_memberships",
        "v1.images",
        "v1.repositories",
        "v1.sources",
        "v1.tag_files",
        "v1.tag_json",
        "v1.tags",
    },
    "v1.tags": {
        "actor",
        "events",
        "immutability",
        "names",
        "tags",
        "v1.repositories",
        "v1.sources",
        "v1.tag_files",
        "v1.tag_json",
    },
    "v1.tokens": {"names", "v1.image_layout"},
    "bridge.bridge": {
        "bridge.derived_images",
        "bridge.derived_manifests",
        "bridge.unpacked_layers",
        "bridge.v1_sources",
        "oci_registry",
        "v1.layer_reader",
        "v1.legacy_registry",
    },
    "bridge.conversion": {"bridge.go_json", "bridge.image_structure", "names"},
    "bridge.derived_images": {
        "blobs",
        "bounded_cache",
        "bridge.image_sources",
        "bridge.unpacked_layers",
        "layers.tar_headers",
        "layout",
        "names",
        "sources",
        "stored_file",
        "v1.image_layout",
        "v1.layer_links",
        "v1.layer_reader",
        "v1.sources",
    },
    "bridge.derived_manifests": {
        "access",
        "actor",
        "blobs",
        "bridge.conversion",
        "bridge.derived_images",
        "bridge.unpacked_layers",
        "layout",
        "leases",
        "manifests",
        "names",
        "stored_file",
        "v1.image_layout",
        "v1.images",
        "v1.layer_links",
        "v1.sources",
    },
    "bridge.go_json": set(),
    "bridge.image_sources": {
        "bounded_cache",
        "bridge.conversion",
        "json_scanner",
        "layout",
        "manifest_payload",
        "names",
    },
    "bridge.image_structure": {"bridge.go_json"},
    "bridge.unpacked_layers": {
        "bounded_cache",
        "layout",
        "leases",
        "names",
        "store_removal",
        "stored_file",
        "v1.image_layout",
        "v1.layer_reader",
        "v1.layer_links",
    },
    "bridge.v1_sources": {
        "actor",
        "bridge.derived_manifests",
        "listing_cache",
        "names",
        "sources",
        "v1.repositories",
        "v1.tag_files",
    },
    "search.backends": {"search.index", "search.sql"},
    "search.database": set(),
    "search.entries": {"names", "private_repositories", "repositories", "search.index"},
    "search.index": set(),
    "search.schema": {"names", "search.index"},
    "search.sql": {"search.database", "search.index", "search.schema"},
    "search.missed_updates": {"layout", "store_removal"},
    "search.updates": {"events", "names", "search.index", "search.missed_updates"},
    "mirror.authenticator": {
        "bounded_cache",
        "mirror.challenge",
        "mirror.credentials",
        "mirror.hosts",
        "mirror.upstream",
    },
    "mirror.challenge": set(),
    "mirror.client": {
        "manifest_payload",
        "mirror.responses",
        "mirror.upstream",
        "mirror.upstream_connection",
        "names",
    },
    "mirror.upstream_connection": {
        "mirror.adapter",
        "mirror.authenticator",
        "mirror.credentials",
        "mirror.hosts",
        "mirror.responses",
        "mirror.status",
        "mirror.upstream",
    },
    "mirror.credentials": set(),
    "mirror.arriving_content": {"mirror.pieces", "mirror.upstream_content", "stored_file"},
    "mirror.followed_transfer": {"leases", "mirror.arriving_content", "mirror.pieces", "mirror.upstream_content"},
    "mirror.hosts": set(),
    "mirror.mirror": {
        "layout",
        "mirror.blob_sizes",
        "mirror.client",
        "mirror.credentials",
        "mirror.eviction",
        "mirror.mirrored_blobs",
        "mirror.mirrored_manifests",
        "mirror.mirrored_referrers",
        "mirror.mirrored_tags",
        "mirror.namespaces",
        "mirror.platforms",
        "mirror.pulls",
        "mirror.remotes",
        "mirror.status",
        "mirror.tag_lists",
        "mirror.tag_records",
        "mirror.transfers",
        "mirror.upstream",
        "mirror.upstream_connection",
        "names",
        "oci_registry",
        "read_only",
    },
    "mirror.blob_sizes": {"bounded_cache", "json_scanner", "names"},
    "mirror.mirrored_blobs": {
        "blobs",
        "ingest",
        "layout",
        "mirror.arriving_content",
        "mirror.blob_sizes",
        "mirror.passed_on_blob",
        "mirror.remotes",
        "mirror.responses",
        "mirror.transfers",
        "mirror.upstream_content",
        "names",
        "sources",
        "stored_file",
        "uploads",
    },
    "mirror.mirrored_manifests": {
        "mirror.blob_sizes",
        "manifest_pushes",
        "manifests",
        "mirror.platforms",
        "mirror.remotes",
        "mirror.responses",
        "names",
        "sources",
    },
    "mirror.mirrored_referrers": {
        "bounded_cache",
        "json_scanner",
        "layout",
        "manifest_payload",
        "mirror.remotes",
        "mirror.responses",
        "names",
        "referrers",
    },
    "mirror.mirrored_tags": {
        "actor",
        "bounded_cache",
        "leases",
        "listing_cache",
        "mirror.mirrored_manifests",
        "mirror.remotes",
        "mirror.stale",
        "mirror.tag_lists",
        "mirror.tag_records",
        "names",
        "sources",
    },
    "mirror.eviction": {
        "actor",
        "layout",
        "leases",
        "mirror.pulls",
        "mirror.remotes",
        "mirror.tag_records",
        "names",
        "oci_registry",
        "read_only",
        "store_removal",
    },
    "mirror.platforms": {"json_scanner", "layout", "names"},
    "mirror.pulls": {"bounded_cache", "layout", "names", "read_only"},
    "mirror.adapter": set(),
    "mirror.namespaces": {"mirror.upstream"},
    "mirror.responses": {"names"},
    "mirror.remotes": {"actor", "bounded_cache", "layout", "mirror.client", "mirror.upstream", "names", "read_only"},
    "mirror.purging": {"actor", "layout", "names", "oci_registry", "store_removal"},
    "mirror.stale": set(),
    "mirror.status": {"layout", "stored_document"},
    "mirror.warming": {"manifest_payload", "mirror.platforms", "names", "oci_registry"},
    "mirror.tag_lists": {
        "bounded_cache",
        "json_scanner",
        "listing_cache",
        "mirror.remotes",
        "mirror.responses",
        "mirror.stale",
        "names",
    },
    "mirror.tag_records": {"layout", "listing_cache", "names", "store_removal", "stored_document"},
    "mirror.passed_on_blob": {"layout", "mirror.upstream_content", "names"},
    "mirror.pieces": {"ingest", "layout", "stored_file"},
    "mirror.transfer": {
        "ingest",
        "mirror.arriving_content",
        "mirror.pieces",
        "mirror.responses",
        "mirror.upstream_content",
    },
    "mirror.transfers": {
        "deferred_failures",
        "ingest",
        "layout",
        "leases",
        "mirror.arriving_content",
        "mirror.followed_transfer",
        "mirror.pieces",
        "mirror.transfer",
        "mirror.upstream",
        "mirror.upstream_content",
        "stored_file",
    },
    "mirror.upstream_content": {"ingest", "mirror.upstream", "stored_file"},
    "mirror.upstream": {"mirror.credentials", "mirror.platforms", "names"},
    "v1_mirror.answers": {"json_scanner", "names", "search.index", "v1.pushes"},
    "v1_mirror.bridged_images": {
        "bridge.derived_images",
        "bridge.image_sources",
        "layout",
        "names",
        "oci_registry",
        "read_only",
        "sources",
        "stored_file",
        "v1.sources",
        "v1.tag_json",
        "v1_mirror.bridged_layer",
    },
    "v1_mirror.bridged_layer": {"mirror.upstream_content", "stored_file", "v1.layer_jobs"},
    "v1_mirror.mirrored_layer": {
        "ingest",
        "mirror.remotes",
        "mirror.responses",
        "mirror.upstream_content",
        "names",
        "stored_file",
        "v1.images",
        "v1.pushes",
        "v1.sources",
        "v1_mirror.records",
        "v1_mirror.source_client",
    },
    "v1_mirror.mirrored_images": {
        "bounded_cache",
        "mirror.remotes",
        "mirror.stale",
        "mirror.transfers",
        "names",
        "read_only",
        "search.index",
        "sources",
        "stored_file",
        "v1.image_memberships",
        "v1.images",
        "v1.pending_pushes",
        "v1.pushes",
        "v1.sources",
        "v1_mirror.answers",
        "v1_mirror.mirrored_layer",
        "v1_mirror.records",
        "v1_mirror.source_client",
    },
    "v1_mirror.records": {"layout", "names", "store_removal", "stored_document", "v1.layer_links", "v1.sources"},
    "v1_mirror.stored_images": {
        "actor",
        "bounded_cache",
        "layout",
        "mirror.eviction",
        "mirror.purging",
        "names",
        "oci_registry",
        "store_removal",
        "v1.image_layout",
        "v1.layer_links",
        "v1.legacy_registry",
        "v1_mirror.answers",
        "v1_mirror.records",
    },
    "v1_mirror.source_client": {"bounded_cache", "mirror.responses", "mirror.upstream_connection", "names"},
    "v1_mirror.v1_mirror": {
        "bridge.derived_images",
        "layout",
        "mirror.challenge",
        "mirror.transfers",
        "mirror.upstream",
        "mirror.upstream_connection",
        "names",
        "oci_registry",
        "read_only",
        "search.index",
        "sources",
        "stored_file",
        "v1.legacy_registry",
        "v1.sources",
        "v1_mirror.bridged_images",
        "v1_mirror.mirrored_images",
        "v1_mirror.records",
        "v1_mirror.source_client",
        "v1_mirror.stored_images",
    },
    "maintenance.backup": {
        "layout",
        "maintenance.backup_folder",
        "maintenance.copy_report",
        "maintenance.store_paths",
        "maintenance.store_reader",
        "manifest_payload",
        "names",
        "store_removal",
    },
    "maintenance.store_reader": {"maintenance.copy_report", "maintenance.store_paths"},
    "maintenance.backup_folder": {"layout", "maintenance.store_paths"},
    "maintenance.copy_report": {"names"},
    "maintenance.restoration": {
        "layout",
        "maintenance.backup_folder",
        "maintenance.copy_report",
        "maintenance.store_paths",
        "names",
        "store_removal",
        "stored_file",
        "v1.image_layout",
    },
    "maintenance.store_paths": {"layout", "names", "v1.image_layout", "v1.layer_links"},
}

#: What each part of the domain may import of the others; "" is the core, which knows OCI alone.
PARTS = {
    "": {""},
    "layers": {"", "layers"},
    "v1": {"", "layers", "v1"},
    "bridge": {"", "bridge", "layers", "v1"},
    "mirror": {"", "mirror"},
    "v1_mirror": {"", "bridge", "mirror", "search", "v1", "v1_mirror"},
    "search": {"", "search"},
    "maintenance": {"", "bridge", "maintenance", "v1"},
}

#: The methods by which requests change the registry; each takes an Actor.
CHANGES = {
    "blobs.mount",
    "image_pushes.adopt",
    "image_pushes.put_checksum",
    "image_pushes.put_json",
    "image_pushes.put_layer",
    "image_repositories.put_images",
    "image_tag_pushes.put",
    "image_tags.delete",
    "image_tags.delete_repository",
    "manifest_pushes.put",
    "private_images.mark_listed",
    "private_images.publish_tagged",
    "private_images.set_private",
    "removal.delete_blob",
    "removal.delete_manifest",
    "tags.delete",
    "tags.put",
    "uploads.append",
    "uploads.cancel",
    "uploads.commit",
    "uploads.put",
    "uploads.start",
}

#: Methods of a driver that remove a file or move it away, and those that write one.
REMOVALS = {"discard", "discard_file", "move", "remove", "remove_if_match"}
WRITES = {"link", "put_content", "repair", "replace_content", "stream_write"}

#: Objects other than drivers that have methods of these names.
NO_DRIVERS = {
    "_connections",
    "_files",
    "_folder",
    "_idle",
    "_json",
    "_pieces",
    "_records",
    "_staged_layers",
    "_waiting",
    "links",
    "self",
    "source",
    "sources",
    "store_removal",
    "tag_links",
}

#: The only module that removes files from the store, and what others remove or move themselves.
REMOVERS = {
    "registry.store_removal": {"discard", "move", "remove_if_match"},
    "registry.upload_sessions": {"discard", "discard_file"},  # scratch files of uploads
    "registry.mirror.pieces": {"discard"},  # scratch files of transfers
    "registry.mirror.transfers": {"discard"},  # scratch files of abandoned transfers
    "registry.blobs": {"move"},  # an upload to the path of its blob
    "registry.v1.migration": {"move"},  # a raw layer to the path of its blob
    "registry.oci_registry": {"remove"},  # the file with which it probes the store
    "auth.tokens.refresh_tokens": {"remove"},  # credentials, which the registry does not know
}

#: What each driver may import of the others. A driver knows no other one; Glance uses Swift.
DRIVERS = {
    "base": {"capabilities", "paths", "values"},
    "capabilities": set(),
    "paths": set(),
    "values": set(),
    "file": {"base", "file", "paths"},
    "memory": {"base", "paths"},
    "measured": {"base", "paths"},
    "objects": {"base", "paths"},
    "object_reading": set(),
    "store_identity": {"base", "paths"},
    "testing": {"base", "paths", "testing"},
    "cache": {"base", "cache", "measured", "paths"},
    "s3": {"base", "object_reading", "objects", "paths", "s3"},
    "swift": {"base", "objects", "paths", "swift"},
    "glance": {"base", "glance", "paths", "swift"},
    "gcs": {"base", "gcs", "object_reading", "objects", "paths"},
    "azureblob": {"azureblob", "base", "objects", "paths"},
}


@functools.cache
def modules():
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


@functools.cache
def parsed(path):
    return ast.parse(path.read_text())


@functools.cache
def imports(path):
    """Return what a module imports of the project, without the name of the package."""
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("docker_registry.") for name in found if name.startswith("docker_registry.")}


def name(path):
    """Return the name of a module without the name of the package; a package has the name of its folder."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def known():
    """Return the names of all modules."""
    return {name(path) for path in modules()}


def resolved(path):
    """Return the modules that a module imports, also in functions and for types only."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("docker_registry."):
            for alias in node.names:
                target = f"{node.module}.{alias.name}".removeprefix("docker_registry.")
                while target and target not in known():
                    target = target.rpartition(".")[0]
                if target and target != name(path):
                    yield target


def module(found):
    """Return the module of the domain that an import refers to."""
    name = found.removeprefix("registry.")
    return next((known for known in DOMAIN if name == known or name.startswith(f"{known}.")), name)


def part(name):
    """Return the part of the domain that a module belongs to; "" is the core."""
    return name.rpartition(".")[0]


def top_level(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


class TestEveryModule:
    def test_imports_only_what_it_may(self):
        for path in modules():
            allowed = {*IMPORTS[top_level(path)], "__version__"}
            for name in imports(path):
                assert any(name == target or name.startswith(f"{target}.") for target in allowed), (path, name)

    def test_does_nothing_when_it_is_imported(self):
        for path in modules():
            for node in parsed(path).body:
                assert path.stem == "wsgi" or is_declaration(node), (path, ast.dump(node)[:200])


def is_declaration(node):
    """Return whether a statement of a module declares something and does nothing else."""
    if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign):
        return True
    is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    is_guard = isinstance(node, ast.If) and ("TYPE_CHECKING" in ast.dump(node) or "__main__" in ast.dump(node))
    return isinstance(node, ast.Assert) or is_docstring or is_guard or "sys" in ast.dump(node)


class TestTheDomain:
    def test_imports_only_what_it_may(self):
        for name, allowed in DOMAIN.items():
            path = PACKAGE / "registry" / f"{name.replace('.', '/')}.py"
            inside = {module(found) for found in imports(path) if found.startswith("registry.")}
            assert set() == inside - allowed, name

    def test_imports_only_parts_below_its_own(self):
        for name, allowed in DOMAIN.items():
            for imported in allowed:
                assert part(imported) in PARTS[part(name)], (name, imported)

    def test_changes_the_files_of_tags_in_one_place_for_each_api(self):
        links, files = set(), set()
        for path in (PACKAGE / "registry").rglob("*.py"):
            calls = {ast.unparse(node.func) for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)}
            links |= {name(path)} if "layout.tag_link" in calls else set()
            files |= {name(path)} if "image_layout.tag" in calls else set()
        assert {"registry.tag_changes", "registry.tag_links"} == links
        assert {"registry.v1.tag_files"} == files

    def test_changes_tags_in_one_module(self):
        makers = {"layout.tag_link", "image_layout.tag"}
        for path in (PACKAGE / "registry").rglob("*.py"):
            calls = {ast.unparse(node.func) for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)}
            if calls & makers and name(path) != "registry.tag_links":
                assert set() == driver_methods(path, REMOVALS | WRITES), name(path)

    def test_is_listed_here_module_by_module(self):
        domain = PACKAGE / "registry"
        found = {path.relative_to(domain).with_suffix("") for path in domain.rglob("*.py") if path.stem != "__init__"}
        assert set(DOMAIN) == {".".join(path.parts) for path in found}

    def test_needs_neither_the_web_framework_nor_a_cloud(self):
        program = (
            "import sys, docker_registry.registry.oci_registry; "
            "print(sorted({'flask', 'werkzeug', 'gunicorn', 'boto3', 'redis', 'sqlalchemy'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
        assert "[]\n" == done.stdout


class TestARegistryWithoutApiV1:
    def test_imports_nothing_of_it(self):
        program = (
            "import sys; "
            "from docker_registry import app, services; "
            "from docker_registry.config.schema import Config; "
            "from docker_registry.drivers.memory import MemoryDriver; "
            "config = Config(storage='memory', v1=False); "
            "services.import_modules(config); app.import_routes(config); "
            "client = app.create_app(services.build(config)).test_client(); "
            "assert client.get('/v2/').status_code == 200; "
            "assert client.get('/v1/_ping').status_code == 404; "
            "parts = ('docker_registry.registry.v1', 'docker_registry.registry.bridge', 'docker_registry.api.v1'); "
            "print([name for name in sys.modules if name.startswith(parts)])"
        )
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
        assert ("[]\n", "") == (done.stdout, done.stderr)


class TestTheStore:
    def test_is_removed_from_in_one_module(self):
        outside = [path for path in modules() if top_level(path) != "drivers"]
        assert REMOVERS == {name(path): found for path in outside if (found := driver_methods(path, REMOVALS))}


def driver_methods(path, methods):
    """Return which of some methods of a driver a module names, whether or not it calls them there."""
    named = (node for node in ast.walk(parsed(path)) if isinstance(node, ast.Attribute) and node.attr in methods)
    return {node.attr for node in named if ast.unparse(node.value).rpartition(".")[2] not in NO_DRIVERS}


class TestTheApi:
    def test_names_the_actor_of_every_change(self):
        calls = (node for path in (PACKAGE / "api").rglob("*.py") for node in ast.walk(parsed(path)))
        for node in (each for each in calls if isinstance(each, ast.Call)):
            method = ast.unparse(node.func).rpartition("registry.")[2].rpartition("legacy.")[2]
            if method in CHANGES:
                assert "actor" in {keyword.arg for keyword in node.keywords}, ast.unparse(node)

    def test_is_checked_for_methods_that_exist(self):
        registry = Registry(MemoryDriver())
        for method in CHANGES:
            service, _, name = method.partition(".")
            assert "actor" in inspect.signature(getattr(getattr(registry, service), name)).parameters


class TestNoModule:
    def test_imports_itself_in_a_circle(self):
        graph = {name(path): {*resolved(path)} for path in modules()}
        while True:  # remove the modules that import none of the others, until only circles are left
            free = {each for each, imported in graph.items() if not imported}
            if not free:
                break
            graph = {each: imported - free for each, imported in graph.items() if each not in free}
        assert {} == graph


class TestTheDrivers:
    def test_import_only_what_they_may(self):
        for name, allowed in DRIVERS.items():
            paths = [*(PACKAGE / "drivers").glob(f"{name}.py"), *(PACKAGE / "drivers" / name).glob("*.py")]
            assert paths, name
            inside = {found.split(".")[1] for path in paths for found in imports(path) if found.startswith("drivers.")}
            assert set() == inside - allowed, name

    def test_are_all_listed_here(self):
        assert set(DRIVERS) == {path.stem for path in (PACKAGE / "drivers").iterdir()} - {"__init__", "__pycache__"}
