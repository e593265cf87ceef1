"""A store in memory that can be full."""

from __future__ import annotations

from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import StorageFull


class FullDriver(MemoryDriver):
    """A store without space for another file."""

    is_full = False

    def put_content(self, path, content, *, if_match=None):
        if self.is_full:
            raise StorageFull(path=path)
        super().put_content(path, content, if_match=if_match)

    def stream_write(self, path, blocks):
        return super().stream_write(path, self._fitting(path, blocks))

    def _fitting(self, path, blocks):
        for block in blocks:
            if self.is_full:
                raise StorageFull(path=path)
            yield block
