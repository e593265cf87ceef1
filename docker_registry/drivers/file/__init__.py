"""A folder of the local file system, or of one that hosts share."""

from docker_registry.drivers.file.driver import FileDriver

__all__ = ["FileDriver"]
