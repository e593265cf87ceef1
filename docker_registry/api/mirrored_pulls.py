"""Reports mirrored blobs and layers of images that are being sent, so that they are not evicted meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Final, cast

from flask import Flask, Response, request

from docker_registry.api.arriving_body import ArrivingBody
from docker_registry.http.exchange import context_of

_GET_BLOB: Final = "v2_blobs.get_blob"
_GET_LAYER: Final = "v1_images.get_layer"
_SENT: Final = frozenset({200, 206})


def install(
    app: Flask,
    sending: Callable[[str, str], AbstractContextManager[None]],
    sending_image: Callable[[str], AbstractContextManager[None]],
) -> None:
    """
    Install the hook.

    Args:
        sending: returns a context that is entered while a blob is being sent, given its repository and digest.
        sending_image: the same for the layer of an image of API V1, given its id.
    """

    @app.after_request
    def report_sent(response: Response) -> Response:
        is_blob = request.endpoint == _GET_BLOB
        if not (is_blob or request.endpoint == _GET_LAYER):
            return response
        if request.method != "GET" or response.status_code not in _SENT:
            return response
        wrapper = request.environ.get("wsgi.file_wrapper")
        context = context_of(request.environ)
        reported = sending(context.repository, context.digest) if is_blob else sending_image(context.reference)
        if wrapper is None or not isinstance(response.response, wrapper):
            blocks = cast("Iterable[bytes]", response.response)
            response.response = _ReportedBlocks(blocks, reported)
        elif isinstance(body := getattr(response.response, "filelike", None), ArrivingBody):
            body.report(reported)
        return response  # any other open file survives its removal


class _ReportedBlocks:
    """Blocks of a body with a context that is entered while they are read."""

    def __init__(self, blocks: Iterable[bytes], context: AbstractContextManager[None]) -> None:
        self._blocks = blocks
        self._context = context

    def __iter__(self) -> Iterator[bytes]:
        with self._context:
            yield from self._blocks

    def close(self) -> None:
        """Close the blocks; called by the WSGI server."""
        close = getattr(self._blocks, "close", None)
        if close is not None:
            close()
