"""
API V1 with a separate Index (``standalone: false``).

A request for a repository or an image needs a token that the Index accepts, or the operator's signature. The routes of
the Index itself (users, lists of images, login) are not served.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from flask import Flask, Response, request

from docker_registry import dependencies
from docker_registry.api.authorization import IMAGE_CHECK
from docker_registry.auth.external.index import Index, IndexToken
from docker_registry.auth.privileged_key import PrivilegedKey
from docker_registry.errors import ImageInvalid, ImageUnknown, NotFound, Unauthorized
from docker_registry.registry.names import ImageId, ImageRepositoryName

#: Routes that belong to the Index.
INDEX_ROUTES: Final = frozenset(
    {
        "v1_repositories.authorize",
        "v1_repositories.begin_delete",
        "v1_repositories.begin_push",
        "v1_repositories.list_images",
        "v1_repositories.put_images",
        "v1_users.create_user",
        "v1_users.log_in",
        "v1_users.update_user",
    }
)

#: Routes that name neither a repository nor an image.
PUBLIC_ROUTES: Final = frozenset({"v1_search.search"})

_ACCESS: Final = {"GET": "read", "HEAD": "read", "PUT": "write", "POST": "write", "DELETE": "delete"}

#: Docker asks for the JSON of images with its write token, to find out what to push.
_READABLE_WITH_WRITE_TOKEN: Final = frozenset({"v1_images.get_json"})

_NOT_LISTED: Final = "This image does not belong to the repository"


def install(
    app: Flask,
    index: Index,
    *,
    privileged_key: PrivilegedKey | None,
    check_tokens: bool,
    connect_before_put_image_json: Callable[[Callable[..., None]], object],
) -> None:
    """
    Install the hooks that check the token of every request.

    Args:
        privileged_key: a request signed with it needs no token; None if there is none.
        check_tokens: False if a proxy authenticates the requests.
        connect_before_put_image_json: subscribes a listener to the event ``before_put_image_json``.
    """

    @app.before_request
    def check_token() -> None:
        endpoint = request.endpoint or ""
        if endpoint in INDEX_ROUTES:
            raise NotFound("The Index serves this route.")
        if (
            not check_tokens
            or request.method == "OPTIONS"
            or not endpoint.startswith("v1_")
            or endpoint in PUBLIC_ROUTES
        ):
            return
        dependencies.make_uncacheable()
        headers = [*request.headers]
        # The client may have signed the path with a trailing slash.
        signed = privileged_key is not None and any(
            privileged_key.verify(request.method, path, headers) for path in (request.path, f"{request.path}/")
        )
        if not signed:
            _check(index, IndexToken.parse(request.headers.get("Authorization", "")))

    @app.after_request
    def add_challenge(response: Response) -> Response:
        if response.status_code == 401:
            response.headers["WWW-Authenticate"] = "Token"
        return response

    def check_parent(_: object, image_id: str, image_json: Mapping[str, Any]) -> None:  # noqa: ARG001 - of the signal
        may_use = request.environ.get(IMAGE_CHECK)
        parent = image_json.get("parent")
        if may_use is not None and parent is not None and not may_use(str(parent)):
            raise ImageInvalid("Image depends on an unauthorized parent")

    app.extensions["docker_registry.index"] = check_parent  # a reference: a signal holds its listeners weakly
    connect_before_put_image_json(check_parent)


def _check(index: Index, token: IndexToken) -> None:
    """
    Check the token of the current request, and install the check of images that its body names.

    Raises:
        Unauthorized: the token is for another repository or action, or the Index does not accept it.
        ImageInvalid: a write names an image that the token's repository does not list.
        ImageUnknown: a read or deletion names an image that is neither listed nor otherwise accessible to the token.
        AuthorityUnavailable: the Index did not answer in time.
    """
    needed, name = _ACCESS.get(request.method, ""), token.name
    has_access = token.access == needed or (token.access == "write" and request.endpoint in _READABLE_WITH_WRITE_TOKEN)
    values = (request.view_args or {}).values()
    names_other = any(isinstance(value, ImageRepositoryName) and str(value) != str(name) for value in values)
    if not has_access or names_other:
        raise Unauthorized("Requires authorization")
    images = index.images(token)
    for image_id in (str(value) for value in values if isinstance(value, ImageId)):
        if needed == "write" and image_id not in images:
            raise ImageInvalid(_NOT_LISTED)
        if image_id not in images and not index.allows(token, image_id):
            raise ImageUnknown(id=image_id)
    request.environ[IMAGE_CHECK] = lambda image_id: index.allows(token, image_id)
