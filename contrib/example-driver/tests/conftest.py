import pytest

# So that a promise that is not kept shows what was expected and what came.
pytest.register_assert_rewrite("docker_registry.drivers")
