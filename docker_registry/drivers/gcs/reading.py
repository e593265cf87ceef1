"""Read a Google Cloud Storage object; after a lost connection, the read resumes with the same generation."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from docker_registry.drivers.gcs.client import NETWORK_ERRORS, Api
from docker_registry.drivers.object_reading import ObjectReading
from docker_registry.errors import PathNotFound, PreconditionFailed, StorageError


class _Body(NamedTuple):
    """See :class:`.object_reading.Body`."""

    read: Callable[[int], bytes]
    close: Callable[[], object]


class Reading(ObjectReading):
    """One read of an object, whose version is its generation."""

    store = "Google Cloud Storage"
    network_errors = NETWORK_ERRORS

    def __init__(self, api: Api, path: str) -> None:
        """
        Args:
            path: URL path of the object (:func:`~.client.object_path`).
        """
        super().__init__()
        self._api = api
        self._path = path

    def _request(self, position: int, end: str) -> tuple[int, _Body | None]:
        params = {"alt": "media"}
        if self.version:
            params["ifGenerationMatch"] = self.version
        headers = {"Range": f"bytes={position}-{end}"} if position or end else {}
        api_response = self._api.send("GET", self._path, params=params, headers=headers, stream=True)
        if api_response.status == 416:  # the range starts beyond the object's end
            api_response.response.close()
            return 0, None
        try:
            response = api_response.check().response
        except (PathNotFound, PreconditionFailed) as error:
            if self.version:
                raise StorageError("The file was replaced or removed while it was read.") from None
            raise error from None
        self.version = response.headers["X-Goog-Generation"]
        return int(response.headers["Content-Length"]), _Body(response.raw.read, response.close)
