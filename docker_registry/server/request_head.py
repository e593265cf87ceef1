"""
Heads of requests, as the response cache compares them.

The key of a cached response is the head of its request without the headers that cannot change it. A proxy adds a new
X-Request-Id to each request, and clients differ in their User-Agent; with such headers in the key, hardly any request
would be a repetition. A header that is not listed here stays in the key, so that an unknown one can never lead to the
response to another request.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from docker_registry.http.clients import OLD_CLIENTS

#: Headers with another value in each request: ids and traces.
UNIQUE: Final = frozenset(
    {
        b"b3", b"baggage", b"cdn-loop", b"cf-ray", b"traceparent", b"tracestate", b"uber-trace-id", b"x-amz-cf-id",
        b"x-amzn-trace-id", b"x-b3-flags", b"x-b3-parentspanid", b"x-b3-sampled", b"x-b3-spanid", b"x-b3-traceid",
        b"x-cloud-trace-context", b"x-correlation-id", b"x-envoy-attempt-count", b"x-envoy-external-address",
        b"x-envoy-expected-rq-timeout-ms", b"x-request-id", b"x-request-start",
    }
)  # fmt: skip

#: Headers about the client, or about encodings and caches that no cached response depends on.
IRRELEVANT: Final = frozenset(
    {
        b"accept-charset", b"accept-encoding", b"accept-language", b"cache-control", b"cf-connecting-ip",
        b"cf-ipcountry", b"cf-visitor", b"dnt", b"forwarded", b"pragma", b"priority", b"referer", b"true-client-ip",
        b"upgrade-insecure-requests", b"user-agent", b"via", b"x-client-ip", b"x-forwarded-for", b"x-real-ip",
    }
)  # fmt: skip

_OMITTED: Final = UNIQUE | IRRELEVANT

#: The end of a head.
END: Final = b"\r\n\r\n"


class RequestHead(NamedTuple):
    """
    The head of a request that may be answered from the response cache.

    Attributes:
        key: equal for requests that have the same response.
        is_repeatable: whether it has no header of :data:`UNIQUE`, so that the client may send the same bytes again.
        omitted: the headers that are not part of the key, names in lower case.
    """

    key: bytes
    is_repeatable: bool
    omitted: dict[bytes, str]

    def header(self, name: bytes) -> str:
        """Return the value of an omitted header; empty if there is none."""
        return self.omitted.get(name, "")


def parse_head(received: bytes) -> RequestHead | None:
    """
    Return the head of a request; None if the request cannot be answered from the cache.

    That is if the bytes are not exactly one complete head of GET or HEAD, or if a line could be read differently by
    another parser: it contains a bare CR or LF or a NUL, or an omitted header is repeated.
    """
    if not received.startswith((b"GET ", b"HEAD ")) or not received.endswith(END):
        return None
    lines = received[: -len(END)].split(b"\r\n")
    ends = len(lines) + 1
    if received.count(b"\n") != ends or received.count(b"\r") != ends or b"" in lines or b"\0" in received:
        return None
    included, omitted = [], {}
    for line in lines:
        name, _, value = line.partition(b":")
        name = name.lower()
        if name not in _OMITTED:
            included.append(line)
        elif name in omitted:
            return None
        else:
            omitted[name] = value.strip(b" \t").decode("latin-1")
    included.append(b"old" if OLD_CLIENTS.match(omitted.get(b"user-agent", "")) else b"")
    return RequestHead(b"\r\n".join(included), UNIQUE.isdisjoint(omitted), omitted)
