"""The table of error responses: a row for every class, and only codes of the specification."""

from __future__ import annotations

import pytest

from docker_registry import errors
from docker_registry.api.errors import RESPONSES, status_and_code

#: OCI Distribution Specification, "Error Codes".
CODES = {
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DENIED",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "TOOMANYREQUESTS",
    "UNAUTHORIZED",
    "UNSUPPORTED",
}


def classes(base=errors.RegistryError):
    """Return a class of errors and all below it."""
    return [base, *(found for child in base.__subclasses__() for found in classes(child))]


class TestTheTable:
    @pytest.mark.parametrize("error", classes(), ids=lambda error: error.__name__)
    def test_has_a_response_for_every_error(self, error):
        status, code = status_and_code(error)
        assert 400 <= status < 600
        assert code.replace("_", "").isupper()

    def test_uses_only_codes_of_the_specification(self):
        assert set() == {code for status, code in RESPONSES.values() if status < 500 and code} - CODES

    @pytest.mark.parametrize("error", classes(), ids=lambda error: error.__name__)
    def test_has_a_message_for_every_error(self, error):
        assert (error.__doc__ or "").strip()
