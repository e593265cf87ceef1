"""One real server for all tests of the HTTP surface, in repositories of their own."""

from __future__ import annotations

import itertools

import pytest
import requests

from tests.support.servers.registry import Server

_numbers = itertools.count()


def unique(name):
    """Return a repository name that no other test uses."""
    return f"{name}/n{next(_numbers)}"


def code(answer):
    """The OCI code of an error."""
    (error,) = answer.json()["errors"]
    assert error["message"]
    return error["code"]


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("api") / "store", workers=2) as server:
        yield server


@pytest.fixture(scope="session")
def session():
    with requests.Session() as session:
        yield session
