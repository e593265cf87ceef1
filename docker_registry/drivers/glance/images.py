"""
Images of Glance, as places for bytes (Image service API v2): made, filled once, read, removed.

An image that nothing points at yet, or no longer, carries the tag ``docker-registry-loose-STORE``. So what a crash
leaves behind is found by one question, among the images of everybody else who uses the project.
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
#: Statuses that tell of a Glance, or a proxy before it, that cannot answer for now.
_PASSING: Final = [408, 429, 500, 502, 503, 504]
#: A broken read is taken up again so often without a single byte in between.
_RESUMES: Final = 3
_MAX_NAME: Final = 255


class ImageGone(StorageError):
    """Glance does not have this image."""


class GlanceImages:
    """The images of a project."""

    def __init__(
        self, session: Session, url: str | None = None, *, region: str | None = None, interface: str = "public"
    ) -> None:
        """
        Args:
            url: of Glance; None asks Keystone for it.
            region, interface: which address, where Keystone knows several.

        Raises:
            StorageError: Glance cannot be used.
        """
        self._session = session
        with _translated():
            try:
                found = url or session.get_endpoint(service_type="image", region_name=region, interface=interface)
            except CatalogException:
                found = None
        if not found:
            raise StorageError("Keystone knows no Glance there (glance_region_name, glance_tenant_name, glance_url).")
        self._url = found.rstrip("/").removesuffix("/v2") + "/v2/images"
        self._ask("GET", "", params={"limit": 1})

    def add(self, name: str, tag: str, blocks: Iterable[Bytes]) -> tuple[str, int]:
        """
        Make an image and fill it; of one that cannot be filled nothing stays.

        Args:
            name: for people to read.
            tag: that it carries.

        Returns:
            Its id, and its size in bytes.
        """
        wanted = {
            "name": name[-_MAX_NAME:],
            "container_format": "docker",
            "disk_format": "raw",
            "visibility": "private",
            "tags": [tag],
        }
        identity: str = self._ask("POST", "", json=wanted).json()["id"]
        source = _Source(blocks)
        try:
            self._fill(identity, source)
            if self._ask("GET", f"/{identity}").json()["size"] != source.size:
                raise StorageUnavailable("Glance does not hold what it was sent.")
        except BaseException:
            self._forget(identity)
            raise
        return identity, source.size

    def read(self, identity: str, size: int, offset: int, length: int | None) -> Iterator[bytes]:
        """
        Open an image and read it in blocks; where the connection breaks, another one goes on.

        Args:
            size: of the image in bytes.

        Raises:
            ImageGone: it was removed; at the call.
            StorageError: also in the middle, when the rest cannot be had.
        """
        end = size if length is None else min(size, offset + length)
        if offset >= end:
            return iter(())
        stream = self._stream(identity, offset, end)
        next(stream)
        return stream

    def remove(self, identity: str) -> None:
        """Remove an image; one that is gone does not matter."""
        try:
            self._ask("DELETE", f"/{identity}")
        except ImageGone:
            return

    def tag(self, identity: str, tag: str) -> None:
        """Let an image carry a tag; one that is gone does not matter."""
        try:
            self._ask("PUT", f"/{identity}/tags/{tag}")
        except ImageGone:
            return

    def untag(self, identity: str, tag: str) -> None:
        """Take a tag from an image; neither of them need be there."""
        try:
            self._ask("DELETE", f"/{identity}/tags/{tag}")
        except ImageGone:
            return

    def tagged(self, tag: str, before: float) -> list[str]:
        """Return the ids of all images with a tag that nobody has changed since a moment."""
        found: list[str] = []
        query = {"tag": tag, "limit": "100"}
        while True:
            page = self._ask("GET", "", params=query).json()["images"]
            if not page:
                return found
            found += [image["id"] for image in page if _seconds(image["updated_at"]) <= before]
            query["marker"] = page[-1]["id"]

    # ------------------------------------------------------------------------------------------------- steps

    def _ask(self, method: str, path: str, **options: Any) -> Response:
        with _translated():
            return self._session.request(
                self._url + path,
                method,
                connect_retries=_RETRIES,
                status_code_retries=_RETRIES,
                retriable_status_codes=_PASSING,
                **options,
            )

    def _fill(self, identity: str, source: _Source) -> None:
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
            if source.error is not None:  # its own trouble, whatever became of it on the way through the libraries
                raise source.error from None
            raise

    def _forget(self, identity: str) -> None:
        try:
            self.remove(identity)
        except StorageError:  # it stays tagged, and is swept later
            return

    def _stream(self, identity: str, position: int, end: int) -> Iterator[bytes]:
        """Yield nothing once it is open, then the blocks."""
        failures, is_open = 0, False
        while True:
            # A range, always: a store behind Glance that has none answers 200, and with it from the beginning.
            span = {"Range": f"bytes={position}-{end - 1}"}
            answer = self._ask("GET", f"/{identity}/file", headers=span, stream=True, log=False)
            with answer:
                if not is_open:
                    is_open = True
                    yield b""
                skipped = position if answer.status_code == 200 else 0
                try:
                    for block in answer.iter_content(_BLOCK_BYTES):
                        some, skipped = block[skipped:], max(0, skipped - len(block))
                        some = some[: end - position]
                        position += len(some)
                        if some:
                            failures = 0
                            yield some
                        if position == end:
                            return
                except (RequestException, HTTPError, OSError):
                    pass
            if failures == _RESUMES:
                raise StorageUnavailable("Glance broke off the reading of an image again and again.")
            failures += 1
            time.sleep(0.1 * 2**failures)


class _Source:
    """Blocks on their way to Glance: counted, and what they raise is remembered."""

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
    """Raise what the libraries raise as a :class:`StorageError`."""
    try:
        yield
    except NotFound:
        raise ImageGone from None
    except HttpError as error:
        raise _in_our_words(error.http_status) from None
    except (ClientException, RequestException, HTTPError, OSError) as error:
        # No text of the error itself: it shows addresses, and sometimes what was sent.
        raise StorageUnavailable(f"Glance or its Keystone cannot be reached ({type(error).__name__}).") from None


def _in_our_words(status: int) -> StorageError:
    if status in (401, 403):
        return StorageError(f"Glance or its Keystone refuses this user (status {status}).")
    if status in (413, 507):
        return StorageFull("Glance has no room left, or the quota of the project is used up.")
    if status in _PASSING:
        return StorageUnavailable(f"Glance cannot answer for now (status {status}).")
    return StorageError(f"Glance refuses a request (status {status}).")


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
