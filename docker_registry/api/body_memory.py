"""Whole bodies of requests in memory: read as they arrive, out of a budget."""

from __future__ import annotations

from typing import Final

from flask import Flask, current_app, g

from docker_registry.errors import Overloaded, SizeInvalid, TooLarge
from docker_registry.memory_budget import MemoryBudget, Reservation
from docker_registry.registry.intake import Body

#: The first block of a body; each further one doubles the room.
_FIRST_BYTES: Final = 8 * 1024
_LARGEST_BYTES: Final = 1024 * 1024

_BUDGET: Final = "docker_registry.body_memory"


def install(app: Flask, budget: MemoryBudget) -> None:
    """Let all bodies that an application reads whole share a budget, each until its request ends."""
    app.extensions[_BUDGET] = budget
    app.teardown_request(_release)


def read(body: Body, max_bytes: int) -> bytes:
    """
    Return the whole of a body. Its memory is reserved until the request ends, and grows with what arrives.

    Raises:
        TooLarge: it is longer than *max_bytes*; no more than one byte beyond that is read.
        SizeInvalid: it ended early.
        Overloaded: the budget is used up, and this body came slowly or had to wait too long.
    """
    if (body.length or 0) > max_bytes:
        raise TooLarge(max_bytes=max_bytes)
    room_bytes = (max_bytes if body.length is None else body.length) + 1  # a body finds its end in the last byte
    reservation = _reservation(body)
    blocks: list[memoryview] = []
    size = 0
    is_over = False
    while not is_over and size < room_bytes:
        block_bytes = min(max(size, _FIRST_BYTES), _LARGEST_BYTES, room_bytes - size)
        reservation.grow(2 * block_bytes)  # once for the block, once for the bytes that all are joined to
        block = memoryview(bytearray(block_bytes))
        filled = _fill(body, block)
        is_over = filled < block_bytes
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
    budget: MemoryBudget = current_app.extensions[_BUDGET]
    # Only the registry's own worker can end a body early; with others, slow bodies end when their worker says so.
    reservation = budget.open(revoke=getattr(body, "cut_off", None))
    g.setdefault(_BUDGET, []).append(reservation)
    return reservation


def _release(_error: BaseException | None) -> None:
    for reservation in g.pop(_BUDGET, ()):
        reservation.release()
