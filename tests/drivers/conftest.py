from __future__ import annotations

import functools

import pytest

# A promise that is not kept shows what was expected and what came. By their names, since others import the drivers.
SUBJECTS = ("conditions", "contents", "folders", "paths")
pytest.register_assert_rewrite(*(f"docker_registry.drivers.testing_{subject}" for subject in SUBJECTS))


@pytest.fixture(scope="session", autouse=True)
def service_descriptions_read_once():
    """Let all clients of S3 share what botocore reads from its data files: a third of a second of CPU time for each."""
    botocore_session = pytest.importorskip("botocore.session")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore_session, "create_loader", functools.cache(botocore_session.create_loader))
        yield
