"""
Media types: which texts are one, which are the same, and which are safe to send as a Content-Type.

Source: RFC 6838, section 4.2, whose grammar leaves no place for blanks, control characters or other alphabets.
"""

from __future__ import annotations

import re
from typing import Final

_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9!#$&\-^_.+]{0,126}"
_MEDIA_TYPE: Final = re.compile(f"{_NAME}/{_NAME}")

#: What browsers take for a page, a picture with scripts, or a document that may name one of them.
_ACTIVE: Final = re.compile(
    r"(?!application/).*|application/(xml|xml-.*|.*\+xml|(x-)?(java|ecma)script|pdf)", re.IGNORECASE
)

#: What clients save and never display.
OPAQUE: Final = "application/octet-stream"


def is_valid(text: str) -> bool:
    """Tell whether a text is a media type without parameters."""
    return _MEDIA_TYPE.fullmatch(text) is not None


def is_same(one: str, other: str) -> bool:
    """Compare two media types, which are the same in upper and lower case."""
    return one.lower() == other.lower()


def safe_content_type(media_type: str) -> str:
    """
    Return the Content-Type with which content of clients may be sent.

    Returns:
        *media_type*, or OPAQUE where it is none, or one that a browser would run or display: what anyone can push must
        not become a page of this site.
    """
    return media_type if is_valid(media_type) and not _ACTIVE.fullmatch(media_type) else OPAQUE
