"""
The descriptions of the HTTP surface in docs/, read without Schemathesis.

Every process of a test run collects all tests, but only one sends generated requests: importing Schemathesis and
preparing its operations takes seconds.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

DOCS = Path(__file__).parent.parent.parent / "docs"

VALID, INVALID = "valid", "invalid"


def read(file_name):
    """Return a description, as plain dictionaries with references."""
    return yaml.load((DOCS / file_name).read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def operations(document):
    """Yield every operation as (URL, method in capitals, operation, its parameters with those of its URL)."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method != "parameters":
                parameters = [*methods.get("parameters", ()), *operation.get("parameters", ())]
                yield path, method.upper(), operation, [_resolved(document, each) for each in parameters]


def _resolved(document, parameter):
    while "$ref" in parameter:
        _, *keys = parameter["$ref"].split("/")
        parameter = document
        for key in keys:
            parameter = parameter[key]
    return parameter


def kinds(document):
    """Yield each operation with requests that fit the description, and with others if it has parameters in its URL."""
    for path, method, _, parameters in operations(document):
        label = f"{method} {path}"
        yield label, VALID
        if any(parameter["in"] in ("path", "query") for parameter in parameters):
            yield label, INVALID


def each_kind(document):
    """Parametrize a class of tests by :func:`kinds`."""
    found = [pytest.param(label, kind, id=f"{label} {kind}") for label, kind in kinds(document)]
    return pytest.mark.parametrize(("label", "kind"), found)
