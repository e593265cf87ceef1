"""
Media types: validation, comparison, and the choice of a safe Content-Type.

Source: RFC 6838, section 4.2, whose grammar allows no blanks, control characters or non-ASCII letters.
"""

from __future__ import annotations

import re
from typing import Final

_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9!#$&\-^_.+]{0,126}"
_MEDIA_TYPE: Final = re.compile(f"{_NAME}/{_NAME}")

#: Media types that browsers may render as a page, as an image with scripts, or as a document that can embed either.
_ACTIVE: Final = re.compile(
    r"(?!application/).*|application/(xml|xml-.*|.*\+xml|(x-)?(java|ecma)script|pdf)", re.IGNORECASE
)

#: A media type that clients save and never display.
OPAQUE: Final = "application/octet-stream"


def is_valid(text: str) -> bool:
    """Return whether a text is a media type without parameters."""
    return _MEDIA_TYPE.fullmatch(text) is not None


def is_same(one: str, other: str) -> bool:
    """Return whether two media types are equal; they are case-insensitive."""
    return one.lower() == other.lower()


def safe_content_type(media_type: str) -> str:
    """
    Return a Content-Type that is safe for content pushed by clients.

    Returns:
        *media_type*, or :data:`OPAQUE` if it is invalid or a browser might execute or display it: pushed content must
        not be rendered as a page of this site.
    """
    return media_type if is_valid(media_type) and not _ACTIVE.fullmatch(media_type) else OPAQUE
