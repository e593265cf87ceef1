"""Reads the answers of a mirrored registry of API V1; invalid ones raise ValueError."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from docker_registry.errors import ImageUnknown, NameInvalid
from docker_registry.registry import json_scanner
from docker_registry.registry.json_scanner import Kind
from docker_registry.registry.names import ImageId, ImageRepositoryName, is_tag
from docker_registry.registry.search.index import Result
from docker_registry.registry.v1.pushes import MAX_ANCESTORS
from docker_registry.resources.memory_budget import JsonBudget

#: Longest description of a repository in the results of a search.
_MAX_DESCRIPTION: Final = 1000


def read_tags(payload: bytes, budget: JsonBudget) -> dict[str, str]:
    """Return the tags in ``{"latest": "<image id>", …}``; those that no client can pull are left out."""
    with budget.reserve(payload):
        tags = {}
        for part in budget.pace(json_scanner.scan(payload.decode())):
            if part.kind is Kind.VALUE and is_tag(part.key) and is_image_id(part.value):
                tags[part.key] = part.value
        return tags


def read_images(payload: bytes, budget: JsonBudget) -> Iterator[tuple[str, str]]:
    """Yield the id and the checksum, empty without one, of each image in ``[{"id": …, "checksum": …}, …]``."""
    with budget.reserve(payload):
        for entry in budget.pace(json_scanner.scan_list(payload.decode())):
            if not isinstance(entry, dict) or not is_image_id(entry.get("id")):
                raise ValueError("no image")
            checksum = entry.get("checksum")
            yield entry["id"], checksum if isinstance(checksum, str) else ""


def read_ancestry(payload: bytes, image_id: ImageId) -> tuple[str, ...]:
    """Return the ids of an image and its ancestors, newest first."""
    if json_scanner.count_values(payload) > MAX_ANCESTORS:
        raise ValueError("too many ancestors")
    ids = json.loads(payload)
    is_valid = isinstance(ids, list) and all(map(is_image_id, ids)) and len(set(ids)) == len(ids)
    if not is_valid or ids[:1] != [str(image_id)]:
        raise ValueError("no ancestry")
    return tuple(ids)


def read_results(payload: bytes, budget: JsonBudget) -> list[Result]:
    """Return the repositories in the results of a search."""
    with budget.reserve(payload):
        items = (
            part.value
            for part in budget.pace(json_scanner.scan(payload.decode()))
            if part.key == "results" and part.kind is Kind.ITEM and isinstance(part.value, dict)
        )
        return [result for item in items if (result := _result(item)) is not None]


def is_image_id(value: object) -> bool:
    """Return whether a value of JSON is the id of an image."""
    try:
        return isinstance(value, str) and bool(ImageId.parse(value))
    except ImageUnknown:
        return False


def _result(item: dict[str, Any]) -> Result | None:
    try:
        name = str(ImageRepositoryName.parse(str(item.get("name"))))
    except NameInvalid:
        return None
    stars, description = item.get("star_count"), item.get("description")
    return Result(
        name,
        description[:_MAX_DESCRIPTION] if isinstance(description, str) else "",
        stars if isinstance(stars, int) and 0 <= stars < 2**31 else 0,
        item.get("is_official") is True,
        item.get("is_automated") is True,
    )
