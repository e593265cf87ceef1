"""What views ask access control about the client of the current request, beyond the action of their route."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from flask import request

from docker_registry.api import requests
from docker_registry.errors import Denied, ImageUnknown, Unauthorized
from docker_registry.registry.access import Access, Action
from docker_registry.registry.actor import ANONYMOUS
from docker_registry.registry.names import Digest, ImageId, ImageRepositoryName, RepositoryName, Tag
from docker_registry.registry.tag_changes import TagGuard

#: Where access control puts what a token of API V1 is to say about the client.
HOLDER: Final = "docker_registry.holder"

#: Where the check of images that a body names is put: returns whether the client may use an image, or raises an error.
IMAGE_CHECK: Final = "docker_registry.image_check"


@dataclass(frozen=True, slots=True)
class Holder:
    """
    What a token of API V1 is to say about a client.

    Attributes:
        text: identifies the user; empty without access control.
        ends: when the credentials of the client end, seconds since the Unix epoch.
    """

    text: str = ""
    ends: float = math.inf


def holder() -> Holder:
    """Return what a token of API V1 is to say about the current client."""
    found: Holder = request.environ.get(HOLDER, Holder())
    return found


def check_image(image_id: ImageId) -> None:
    """
    Check that the client may use an image that the body of the current request names.

    Raises:
        Unauthorized, Denied, ImageUnknown: it may not.
    """
    may_use = request.environ.get(IMAGE_CHECK)
    if may_use is not None and not may_use(str(image_id)):
        raise ImageUnknown(id=str(image_id))


def overwrite_guard(access: Access, name: RepositoryName, tags: Sequence[Tag]) -> TagGuard | None:
    """
    Return the guard of a push by the current client; None if it may move all the tags that it sets.

    To be called only for a client that access control restricts (:func:`.requests.is_restricted`).

    The guard raises :class:`Unauthorized` or :class:`Denied` when the push would move a tag that the client may not
    overwrite.
    """
    client = requests.principal()
    if all(access.policy.allows(client, Action.OVERWRITE, name, tag) for tag in tags):
        return None

    def check(tag: Tag, current: Digest | None, new: Digest) -> None:
        if current not in (None, new):
            check_overwrite(access, name, tag)

    return check


def overwrite_refusal(
    access: Access, name: RepositoryName | ImageRepositoryName, tag: Tag
) -> Callable[[], None] | None:
    """
    Return what raises the error if the current client moves a tag; None if the client may.

    To be called only for a client that access control restricts (:func:`.requests.is_restricted`).
    """
    if access.policy.allows(requests.principal(), Action.OVERWRITE, name, tag):
        return None
    return lambda: check_overwrite(access, name, tag)


def check_overwrite(access: Access, name: RepositoryName | ImageRepositoryName, tag: Tag) -> None:
    """
    Check that the current client may overwrite an existing tag.

    Raises:
        Unauthorized, Denied: it may not.
    """
    client = requests.principal()
    if not access.policy.allows(client, Action.OVERWRITE, name, tag):
        if client.name == ANONYMOUS.name:
            raise Unauthorized
        raise Denied(
            f"{client.name} may not overwrite the tag {tag} in the repository {name}.",
            user=client.name, action=Action.OVERWRITE.value, repository=str(name), tag=str(tag),
        )  # fmt: skip
