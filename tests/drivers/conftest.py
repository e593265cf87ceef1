from __future__ import annotations

import functools

import pytest

# Failed assertions of the shared suite show both values.
pytest.register_assert_rewrite("docker_registry.drivers.testing")


@pytest.fixture(scope="session", autouse=True)
def service_descriptions_read_once():
    """Share botocore's data files among all clients of S3: reading them takes a third of a second of CPU time."""
    botocore_session = pytest.importorskip("botocore.session")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore_session, "create_loader", functools.cache(botocore_session.create_loader))
        yield
