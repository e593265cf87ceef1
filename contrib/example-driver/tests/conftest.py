import pytest

# so that a failed assertion of the suite shows both values
pytest.register_assert_rewrite("docker_registry.drivers")
