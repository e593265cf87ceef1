"""The table of error responses: a row for every class, and only codes of the specification."""

from __future__ import annotations

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
    """Return a class of errors and all below it, as far as modules of the package define them."""
    children = [child for child in base.__subclasses__() if child.__module__.startswith("docker_registry.")]
    return [base, *(found for child in children for found in classes(child))]


class TestTheTable:
    def test_has_a_response_for_every_error(self):
        for error in classes():
            status, code = status_and_code(error)
            assert 400 <= status < 600, error
            assert code.replace("_", "").isupper(), error

    def test_uses_only_codes_of_the_specification(self):
        assert set() == {code for status, code in RESPONSES.values() if status < 500 and code} - CODES

    def test_has_a_message_for_every_error(self):
        assert [] == [error for error in classes() if not (error.__doc__ or "").strip()]
