"""The container registry: Docker Registry API V1 and V2 / OCI Distribution on one port and one store."""

__version__ = "1.0.0.dev0"
