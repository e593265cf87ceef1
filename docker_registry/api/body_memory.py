"""Reads whole request bodies into memory, within a budget that all requests of a worker share."""

from __future__ import annotations

from typing import Final, cast

from flask import current_app, g

from docker_registry.api.flask_app import Application
from docker_registry.errors import Overloaded, SizeInvalid, TooLarge
from docker_registry.registry.ingest import Body
from docker_registry.resources.memory_budget import MemoryBudget, Reservation

#: Size of the first block of a body; each further block doubles the total, up to a maximum block size.
_FIRST_BLOCK_BYTES: Final = 8 * 1024
_LARGEST_BLOCK_BYTES: Final = 1024 * 1024

_RESERVATIONS: Final = "docker_registry.body_memory"


def install(app: Application, budget: MemoryBudget) -> None:
    """Set the budget for the bodies that an application reads; each is released when its request ends."""
    app.body_memory = budget
    app.teardown_request(_release)


def read(body: Body, max_bytes: int) -> bytes:
    """
    Return a whole body. Memory is reserved as the body arrives and released when the request ends.

    Raises:
        TooLarge: the body is longer than *max_bytes*; at most one byte more is read.
        SizeInvalid: the body ended early.
        Overloaded: the budget is exhausted, and this body arrived slowly or waited too long.
    """
    if (body.length or 0) > max_bytes:
        raise TooLarge(max_bytes=max_bytes)
    buffer_bytes = (max_bytes if body.length is None else body.length) + 1  # 1 more, to detect the end or an excess
    reservation = _reservation(body)
    blocks: list[memoryview] = []
    size = 0
    has_ended = False
    while not has_ended and size < buffer_bytes:
        block_bytes = min(max(size, _FIRST_BLOCK_BYTES), _LARGEST_BLOCK_BYTES, buffer_bytes - size)
        reservation.grow(2 * block_bytes)  # for the block and its copy in the joined result
        block = memoryview(bytearray(block_bytes))
        filled = _fill(body, block)
        has_ended = filled < block_bytes
        size += filled
        blocks.append(block[:filled])
    if size > max_bytes:
        raise TooLarge(max_bytes=max_bytes)
    if reservation.is_revoked:
        raise Overloaded
    if not body.complete:
        raise SizeInvalid("The body ended early.")
    return bytes(blocks[0]) if len(blocks) == 1 else b"".join(blocks)


def _fill(body: Body, block: memoryview) -> int:
    filled = 0
    while filled < len(block) and (arrived := body.readinto(block[filled:])):
        filled += arrived
    return filled


def _reservation(body: Body) -> Reservation:
    budget = cast(Application, current_app).body_memory
    # Only the registry's own worker can cut off a body; under other workers, their timeouts end slow bodies.
    reservation = budget.open(revoke=getattr(body, "cut_off", None))
    g.setdefault(_RESERVATIONS, []).append(reservation)
    return reservation


def _release(_error: BaseException | None) -> None:
    for reservation in g.pop(_RESERVATIONS, ()):
        reservation.release()
