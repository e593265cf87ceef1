"""Responses with several parts, read as RFC 9110, section 14.6, says."""

from __future__ import annotations

import email
import re


def parts_of(content_type, body):
    """Return the offset and the bytes of each part."""
    assert content_type.startswith("multipart/byteranges; boundary=")
    message = email.message_from_bytes(b"Content-Type: %b\r\n\r\n%b" % (content_type.encode(), body))
    boundary = b"--" + message.get_boundary().encode()
    assert body.startswith(boundary + b"\r\n")
    assert body.endswith(b"\r\n" + boundary + b"--\r\n")
    parts = []
    for text in body[len(boundary) + 2 : -len(boundary) - 6].split(b"\r\n" + boundary + b"\r\n"):
        head, _, content = text.partition(b"\r\n\r\n")
        assert b"Content-Type: application/octet-stream" in head
        start, end = re.search(rb"Content-Range: bytes ([0-9]+)-([0-9]+)/[0-9]+$", head).groups()
        assert int(end) - int(start) + 1 == len(content)
        parts.append((int(start), content))
    return parts
