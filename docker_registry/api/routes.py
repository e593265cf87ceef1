"""
Facts about the routes: the variables in them, the action of each one, and the groups that the hooks treat alike.

A test compares the actions with the routes. Most requests are for content of a repository of API V2;
:func:`v2_routes` makes their routes quick to find.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from werkzeug.routing import Rule

from docker_registry.registry.access import Action
from docker_registry.registry.names import (
    Digest,
    ImageId,
    ImageRepositoryName,
    RepositoryName,
    Tag,
    parse_reference,
    parse_upload_id,
)

#: The parser of each variable in the routes.
PARSERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "name": RepositoryName.parse,
    "reference": parse_reference,
    "digest": Digest.parse,
    "upload_id": parse_upload_id,
    "image_id": ImageId.parse,
    "repository": ImageRepositoryName.parse,
    "tag": Tag.parse,
}

#: The variables of URLs that name a repository, and those that name something in it.
REPOSITORIES: Final = frozenset({"name", "repository"})
REFERENCES: Final = frozenset({"reference", "digest", "tag", "image_id", "upload_id"})

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

#: Routes by which clients change repositories.
CHANGES: Final = frozenset(route for route, action in ACTIONS.items() if action is not Action.PULL)

#: Routes by which a push that has begun may finish: its blobs become complete, but nothing refers to them.
_UNFINISHED: Final = frozenset(
    {
        "v1_pushes.put_checksum",
        "v1_pushes.put_layer",
        "v2_uploads.append_chunk",
        "v2_uploads.cancel_upload",
        "v2_uploads.commit_upload",
    }
)

#: Routes that are refused while the registry is read-only.
REFUSED_READ_ONLY: Final = CHANGES - _UNFINISHED

#: Endpoints that clients request repeatedly. None depends on the time, the client's address or chance.
CACHEABLE: Final = frozenset(
    {
        "v1_images.get_ancestry",
        "v1_images.get_json",
        "v1_tags.get_tag",
        "v1_tags.list_tags",
        "v2_base.check_version",
        "v2_base.list_tags",
        "v2_blobs.get_blob",
        "v2_manifests.get_manifest",
    }
)

#: Routes whose responses contain information about an image's ancestors.
ABOUT_ANCESTORS: Final = frozenset({"v1_images.get_diff"})

#: The paths of most requests: a name, the words after it, and a digest, a reference, the id of an upload, or nothing.
V2_PATH: Final = re.compile(r"/v2/([^/].*)(/blobs/uploads/|/blobs/|/manifests/|/referrers/)([^/]*)")

_V2_RULE: Final = re.compile(r"/v2/<path:name>(/[a-z/]+/)(?:<([a-z_]+)>)?")

#: By method, words after the name, and whether anything follows: the route, and the name of the variable that follows.
V2Routes = Mapping[tuple[str, str, bool], tuple[Rule, str]]


def v2_routes(rules: Iterable[Rule]) -> V2Routes:
    """
    Return the routes that match :data:`V2_PATH`.

    Empty if an extension has added routes below ``/v2/``: Werkzeug would prefer some of them.
    """
    routes: dict[tuple[str, str, bool], tuple[Rule, str]] = {}
    for rule in rules:
        match = _V2_RULE.fullmatch(rule.rule)
        if match is not None:
            for method in (rule.methods or set()) - {"OPTIONS"}:
                routes[method, match[1], match[2] is not None] = rule, match[2] or ""
        if rule.rule.startswith("/v2/") and not rule.endpoint.startswith("v2_"):
            return {}
    return routes
