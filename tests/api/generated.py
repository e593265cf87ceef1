"""
Requests generated from a description of the HTTP surface by Schemathesis, and answers held to it.

What is sent fits the description, or deliberately does not.
"""

from __future__ import annotations

import itertools
from collections import Counter

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from tests.api.description import DOCS, INVALID, VALID
from tests.support.clients.v2 import digest_of

CHECK_NAMES = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "allow_header_conformance",
]

MODES = {VALID: GenerationMode.POSITIVE, INVALID: GenerationMode.NEGATIVE}

#: More than these are other ones each time; fewer are the same each time, so that CI says the same of the same code.
SAME_REQUESTS = 100

#: Three times out of four.
OFTEN = st.sampled_from([True, True, True, False])


def load(file_name):
    """Return a description of docs/ as Schemathesis reads it."""
    return schemathesis.openapi.from_path(DOCS / file_name)


def operations(schema):
    """Return the operations of a description."""
    return [operation.ok() for operation in schema.get_all_operations()]


def kinds(schema):
    """Return the same as :func:`.description.kinds`, of what Schemathesis reads."""
    return [
        (operation.label, kind)
        for operation in operations(schema)
        for kind in MODES
        if kind == VALID or operation.path_parameters or operation.query
    ]


class Surface:
    """A server that keeps what is in it, however much is deleted: it is filled again from time to time."""

    REFILL_AFTER = 20

    def __init__(self, client, schema, fill, unlike=()):
        """
        Args:
            schema: the description, of :func:`load`.
            fill: pushes a little of everything, and returns what is there then.
            unlike: headers that differ from answer to answer.
        """
        self.client = client
        self.operations = {operation.label: operation for operation in operations(schema)}
        self._fill = fill
        self._unlike = {"date", "x-request-id", *unlike}
        self.statuses = Counter()
        self._cases = itertools.count()
        self.stock = None

    def send(self, label, kind, requests_at_most):
        """Send generated requests of a kind to an operation, and hold each answer to the description."""
        operation, mode = self.operations[label], MODES[kind]

        @settings(
            max_examples=requests_at_most,
            derandomize=requests_at_most <= SAME_REQUESTS,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode), data=st.data())
        def one(case, data):
            self.before(case, data)
            answer = case.call(base_url=self.client.url, session=self.client.session, timeout=30)
            self.after(case, answer)
            if not is_of_another_url(answer, mode) and not is_too_long(answer):
                case.validate_response(answer, checks=CHECKS.get_by_names(CHECK_NAMES))

        one()

    def before(self, case, data):
        """Let most of the requests name what is there, and some bring what they announce."""
        if next(self._cases) % self.REFILL_AFTER == 0:
            self.stock = self._fill(self.client)
        url_is_known = data.draw(OFTEN)
        for part in (case.path_parameters, case.query, case.headers):
            for key in part or ():
                known = url_is_known if part is case.path_parameters else data.draw(OFTEN)
                if known and key in self.stock.parameters:
                    part[key] = data.draw(st.sampled_from(self.stock.parameters[key]))
        if isinstance(case.body, dict) and data.draw(OFTEN):
            case.body = data.draw(st.sampled_from(self.stock.manifests))
        if isinstance(case.body, bytes) and data.draw(OFTEN):
            for part, key in ((case.query, "digest"), (case.path_parameters, "reference")):
                if ":" in str((part or {}).get(key)):
                    part[key] = digest_of(case.body)

    def after(self, case, answer):
        """The same request with HEAD has the same answer without a body; Range is for GET alone, and ignored."""
        self.statuses[f"{case.operation.label}: {answer.status_code}"] += 1
        if case.method == "GET":
            request = answer.request.copy()
            request.method = "HEAD"
            head = self.client.session.send(request, timeout=30)
            status, headers = answer.status_code, answer.headers
            if request.headers.pop("Range", None) is not None:
                request.method = "GET"
                whole = self.client.session.send(request, timeout=30)
                status, headers = whole.status_code, as_lists(whole.headers)
            assert (status, b"") == (head.status_code, head.content)
            assert self._comparable(headers) == self._comparable(as_lists(head.headers))

    def _comparable(self, headers):
        return {key.lower(): values for key, values in headers.items() if key.lower() not in self._unlike}


def as_lists(headers):
    """Headers of `requests` in the form that schemathesis has."""
    return {key: [headers[key]] for key in headers}


def is_of_another_url(answer, mode):
    """A parameter that is not as described can make another URL, or none, out of a URL."""
    if mode is GenerationMode.POSITIVE or answer.status_code not in (404, 405):
        return False
    if answer.request.method == "HEAD" or "errors" not in answer.json():
        return True
    return answer.json()["errors"][0]["code"] == "UNSUPPORTED"


def is_too_long(answer):
    """Described once for all URLs: it does not even come to the application."""
    return 414 == answer.status_code and len(answer.request.url) > 4000
