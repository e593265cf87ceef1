"""Packaging of the example driver: the entry point is all that docker-registry needs to find it."""

from setuptools import setup

setup(
    name="docker-registry-driver-sqlite",
    version="1.0",
    description="A storage driver for docker-registry that keeps everything in one SQLite file",
    license="Apache-2.0",
    python_requires=">=3.10",
    py_modules=["docker_registry_driver_sqlite"],
    install_requires=["docker-registry"],
    entry_points={"docker_registry.drivers": ["sqlite = docker_registry_driver_sqlite:SqliteDriver"]},
)
