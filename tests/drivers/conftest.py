from __future__ import annotations

import pytest

# A promise that is not kept shows what was expected and what came. By their names, since others import the drivers.
SUBJECTS = ("conditions", "contents", "folders", "paths")
pytest.register_assert_rewrite(*(f"docker_registry.drivers.testing_{subject}" for subject in SUBJECTS))
