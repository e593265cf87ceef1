"""
Glance images as containers of bytes (Image service API v2): created, filled once, read and deleted.

An unreferenced image carries the tag ``docker-registry-loose-STORE``: one that has no pointer yet, or whose pointer is
about to be removed. So one query finds what a crash leaves behind, even if other users store images in the project.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from keystoneauth1.exceptions import CatalogException, ClientException, HttpError, NotFound
from keystoneauth1.session import Session
from requests import Response
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

from docker_registry.drivers.base import Bytes
from docker_registry.errors import StorageError, StorageFull, StorageUnavailable

_BLOCK_BYTES: Final = 256 * 1024
_RETRIES: Final = 3
#: Status codes of temporary failures of Glance or a proxy in front of it, which are retried.
_TEMPORARY_STATUSES: Final = [408, 429, 500, 502, 503, 504]
#: Maximum number of consecutive resumes of a read that receive no byte.
_RESUMES: Final = 3
_MAX_NAME: Final = 255


class ImageMissing(StorageError):
    """The image does not exist in Glance."""


class GlanceImages:
    """Creates, reads, tags and deletes the images of an OpenStack project."""

    def __init__(
        self, session: Session, url: str | None = None, *, region: str | None = None, interface: str = "public"
    ) -> None:
        """
        Args:
            url: URL of Glance; None looks it up in Keystone's catalog.
            region, interface: select the endpoint in the catalog.

        Raises:
            StorageError: the catalog has no such endpoint, or Glance cannot be used.
        """
        self._session = session
        with _translated():
            try:
                endpoint = url or session.get_endpoint(service_type="image", region_name=region, interface=interface)
            except CatalogException:
                endpoint = None
        if not endpoint:
            raise StorageError(
                "Keystone's catalog has no Glance endpoint: check glance_region_name, glance_tenant_name, glance_url."
            )
        self._url = endpoint.rstrip("/").removesuffix("/v2") + "/v2/images"
        self._request("GET", "", params={"limit": 1})

    def add(self, name: str, tag: str, blocks: Iterable[Bytes]) -> tuple[str, int]:
        """
        Create an image and upload its content. If that fails, the image is deleted.

        Args:
            name: a name for humans; only its last 255 characters are used.
            tag: the image's tag.

        Returns:
            The image's ID, and its size in bytes.
        """
        attributes = {
            "name": name[-_MAX_NAME:],
            "container_format": "docker",
            "disk_format": "raw",
            "visibility": "private",
            "tags": [tag],
        }
        identity: str = self._request("POST", "", json=attributes).json()["id"]
        source = _Source(blocks)
        try:
            self._upload(identity, source)
            if self._request("GET", f"/{identity}").json()["size"] != source.size:
                raise StorageUnavailable("Glance stored content that differs from what was sent.")
        except BaseException:
            self._discard(identity)
            raise
        return identity, source.size

    def read(self, identity: str, size: int, offset: int, length: int | None) -> Iterator[bytes]:
        """
        Open an image and return an iterator over its blocks, which resumes after a lost connection.

        Args:
            size: size of the image in bytes.
            offset: first byte to read, from 0.
            length: maximum number of bytes; None reads to the end.

        Raises:
            ImageMissing: the image does not exist; raised by the call itself.
            StorageError: the image cannot be read; also raised during iteration.
        """
        end = size if length is None else min(size, offset + length)
        if offset >= end:
            return iter(())
        stream = self._stream(identity, offset, end)
        next(stream)
        return stream

    def remove(self, identity: str) -> None:
        """Delete an image; a missing image is ignored."""
        try:
            self._request("DELETE", f"/{identity}")
        except ImageMissing:
            return

    def tag(self, identity: str, tag: str) -> None:
        """Add a tag to an image; a missing image is ignored."""
        try:
            self._request("PUT", f"/{identity}/tags/{tag}")
        except ImageMissing:
            return

    def untag(self, identity: str, tag: str) -> None:
        """Remove a tag from an image; a missing tag or image is ignored."""
        try:
            self._request("DELETE", f"/{identity}/tags/{tag}")
        except ImageMissing:
            return

    def tagged(self, tag: str, before: float) -> list[str]:
        """Return the IDs of all images with a tag that were last updated at or before a time (Unix seconds)."""
        found: list[str] = []
        query = {"tag": tag, "limit": "100"}
        while True:
            page = self._request("GET", "", params=query).json()["images"]
            if not page:
                return found
            found += [image["id"] for image in page if _seconds(image["updated_at"]) <= before]
            query["marker"] = page[-1]["id"]

    # ------------------------------------------------------------------------------------------------- steps

    def _request(self, method: str, path: str, **options: Any) -> Response:
        with _translated():
            return self._session.request(
                self._url + path,
                method,
                connect_retries=_RETRIES,
                status_code_retries=_RETRIES,
                retriable_status_codes=_TEMPORARY_STATUSES,
                **options,
            )

    def _upload(self, identity: str, source: _Source) -> None:
        try:
            with _translated():
                self._session.request(
                    f"{self._url}/{identity}/file",
                    "PUT",
                    data=iter(source),
                    headers={"Content-Type": "application/octet-stream"},
                    log=False,
                )
        except Exception:
            if source.error is not None:  # re-raise the source's own exception, which the libraries may have wrapped
                raise source.error from None
            raise

    def _discard(self, identity: str) -> None:
        try:
            self.remove(identity)
        except StorageError:  # the image remains tagged, so the sweep deletes it later
            return

    def _stream(self, identity: str, position: int, end: int) -> Iterator[bytes]:
        """Yield one empty block when the image is open, then its content."""
        failures, is_open = 0, False
        while True:
            # Always send a Range. If Glance's backend does not support ranges, the status is 200 and the body begins at
            # the first byte: skip to the position.
            range_header = {"Range": f"bytes={position}-{end - 1}"}
            response = self._request("GET", f"/{identity}/file", headers=range_header, stream=True, log=False)
            with response:
                if not is_open:
                    is_open = True
                    yield b""
                skipped = position if response.status_code == 200 else 0
                try:
                    for block in response.iter_content(_BLOCK_BYTES):
                        piece, skipped = block[skipped:], max(0, skipped - len(block))
                        piece = piece[: end - position]
                        position += len(piece)
                        if piece:
                            failures = 0
                            yield piece
                        if position == end:
                            return
                except (RequestException, HTTPError, OSError):
                    pass
            if failures == _RESUMES:
                raise StorageUnavailable("Glance interrupted a download repeatedly.")
            failures += 1
            time.sleep(0.1 * 2**failures)


class _Source:
    """Wraps the blocks of an upload: counts their bytes and records an exception that they raise."""

    def __init__(self, blocks: Iterable[Bytes]) -> None:
        self.size = 0
        self.error: BaseException | None = None
        self._blocks = blocks

    def __iter__(self) -> Iterator[bytes]:
        try:
            for block in self._blocks:
                self.size += len(block)
                yield bytes(block)
        except GeneratorExit:
            raise
        except BaseException as error:
            self.error = error
            raise


@contextmanager
def _translated() -> Iterator[None]:
    """Translate library exceptions into :class:`StorageError` and its subclasses."""
    try:
        yield
    except NotFound:
        raise ImageMissing from None
    except HttpError as error:
        raise _registry_error_of(error.http_status) from None
    except (ClientException, RequestException, HTTPError, OSError) as error:
        # Do not include the text of the error: it shows addresses, and sometimes the content of the request.
        raise StorageUnavailable(f"Glance or its Keystone cannot be reached ({type(error).__name__}).") from None


def _registry_error_of(status: int) -> StorageError:
    if status in (401, 403):
        return StorageError(f"Glance or its Keystone refuses this user (status {status}).")
    if status in (413, 507):
        return StorageFull("Glance is full, or the quota of the project is used up.")
    if status in _TEMPORARY_STATUSES:
        return StorageUnavailable(f"Glance cannot answer for now (status {status}).")
    return StorageError(f"Glance refuses a request (status {status}).")


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
