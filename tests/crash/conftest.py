"""A seed for all crash tests, which repeats the random choices of a run."""

from __future__ import annotations

import os
import secrets

import pytest


@pytest.fixture
def seed():
    seed = os.environ.get("CRASH_SEED") or secrets.token_hex(4)
    print(f"CRASH_SEED={seed}")
    return seed
