"""The action of each route, for access control; a test compares them with the routes."""

from __future__ import annotations

from typing import Final

from docker_registry.registry.access import Action

#: The action of each route that names a repository or an image.
ACTIONS: Final = {
    "v1_images.get_ancestry": Action.PULL,
    "v1_images.get_diff": Action.PULL,
    "v1_images.get_files": Action.PULL,
    "v1_images.get_json": Action.PULL,
    "v1_images.get_layer": Action.PULL,
    "v1_private_images.get_files": Action.PULL,
    "v1_private_images.get_json": Action.PULL,
    "v1_private_images.get_layer": Action.PULL,
    "v1_properties.get_properties": Action.PULL,
    "v1_properties.put_properties": Action.DELETE,
    "v1_pushes.put_checksum": Action.PUSH,
    "v1_pushes.put_json": Action.PUSH,
    "v1_pushes.put_layer": Action.PUSH,
    "v1_repositories.authorize": Action.PUSH,
    "v1_repositories.begin_delete": Action.DELETE,
    "v1_repositories.begin_push": Action.PUSH,
    "v1_repositories.delete_repository": Action.DELETE,
    "v1_repositories.list_images": Action.PULL,
    "v1_repositories.put_images": Action.PUSH,
    "v1_tags.delete_tag": Action.DELETE,
    "v1_tags.get_repository_json": Action.PULL,
    "v1_tags.get_tag": Action.PULL,
    "v1_tags.get_tag_json": Action.PULL,
    "v1_tags.list_tags": Action.PULL,
    "v1_tags.put_tag": Action.PUSH,
    "v2_base.list_tags": Action.PULL,
    "v2_blobs.delete_blob": Action.DELETE,
    "v2_blobs.get_blob": Action.PULL,
    "v2_manifests.delete_manifest": Action.DELETE,
    "v2_manifests.get_manifest": Action.PULL,
    "v2_manifests.put_manifest": Action.PUSH,
    "v2_referrers.list_referrers": Action.PULL,
    "v2_uploads.append_chunk": Action.PUSH,
    "v2_uploads.cancel_upload": Action.PUSH,
    "v2_uploads.commit_upload": Action.PUSH,
    "v2_uploads.get_upload": Action.PUSH,
    "v2_uploads.start_upload": Action.PUSH,
}
