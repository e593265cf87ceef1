"""The storage driver ``file``: keeps the store in a folder of a local or shared file system."""

from docker_registry.drivers.file.driver import FileDriver

__all__ = ["FileDriver"]
