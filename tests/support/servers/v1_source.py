"""A registry of API V1 that serves a storage tree of docker-registry 0.7.1 as that did."""

from __future__ import annotations

import json

from tests.support.servers.upstream import Answer, Upstream
from tests.support.v1_images import Image

PING = "/v1/_ping"


def serve_tree(upstream: Upstream, tree) -> None:
    """Have the images and repositories of a tree, except private ones and names with further slashes."""
    upstream.contents[PING] = Answer(b"true")
    for folder in sorted((tree / "images").iterdir()):
        path = f"/v1/images/{folder.name}"
        layer = (folder / "layer").read_bytes()
        headers = {
            "X-Docker-Size": str(len(layer)),
            "X-Docker-Payload-Checksum": json.loads((folder / "_checksum").read_text())[0],
        }
        upstream.contents[f"{path}/json"] = Answer((folder / "json").read_bytes(), headers=headers)
        upstream.contents[f"{path}/ancestry"] = Answer((folder / "ancestry").read_bytes())
        upstream.contents[f"{path}/layer"] = Answer(layer)
    for folder in sorted((tree / "repositories").glob("*/*")):
        if (folder / "_private").exists() or "%" in folder.name:
            continue
        name = f"{folder.parent.name}/{folder.name}"
        tags = {path.name.removeprefix("tag_"): path.read_text() for path in folder.glob("tag_*")}
        serve_repository(upstream, name, tags, (folder / "_index_images").read_bytes())


def serve_image(upstream: Upstream, image: Image, headers=None) -> None:
    """Have an image."""
    path = f"/v1/images/{image.text}"
    upstream.contents[f"{path}/json"] = Answer(image.payload, headers=headers or {})
    upstream.contents[f"{path}/ancestry"] = Answer(json.dumps(image.ancestry).encode())
    upstream.contents[f"{path}/layer"] = Answer(image.layer)


def serve_repository(upstream: Upstream, name: str, tags, images: bytes) -> None:
    """
    Have a repository.

    Args:
        tags: the ids of their images by tag.
        images: the list of all images.
    """
    headers = {"X-Docker-Token": f'signature=ABC,repository="{name}",access=read'}
    upstream.contents[f"/v1/repositories/{name}/images"] = Answer(images, headers=headers)
    upstream.contents[f"/v1/repositories/{name}/tags"] = Answer(json.dumps(tags).encode())
