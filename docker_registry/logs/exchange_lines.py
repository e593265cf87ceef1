"""
Exchanges as lines of JSON, for the access log and the audit log.

Texts from clients are bounded, and escaped by JSON.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain, repeat
from json.encoder import encode_basestring_ascii as quote
from operator import mul
from typing import Final

from docker_registry.http.exchange import Exchange, Repetitions

#: Longer texts from clients are cut.
MAX_CHARACTERS: Final = 1024

#: The key of :attr:`Exchange.notes`.
_NOTE: Final = "json"

#: The principal of changes that are made without a request.
SYSTEM: Final = "system"


def request_line(exchange: Exchange) -> str:
    """Return the line of the access log for an exchange, with its newline."""
    return f'{{"time":"{now()}","level":"info",{_fixed(exchange)},{_varying(exchange)}}}\n'


def audit_line(exchange: Exchange, event: str) -> str:
    """
    Return the line of the audit log for an exchange, with its newline.

    Args:
        event: ``refusal``, ``login`` or ``change``.
    """
    return f'{{"time":"{now()}","level":"info","event":"{event}",{_fixed(exchange)},{_varying(exchange)}}}\n'


def system_line(message: str, reason: str, operator: str = "") -> str:
    """
    Return the line of the audit log for a change that was made without a request, with its newline.

    Args:
        reason: ``gc`` for housekeeping, ``reload`` for a changed file, ``cli`` for a command.
        operator: name of the user of the operating system who ran the command, or the number of a user without one.
    """
    return (
        f'{{"time":"{now()}","level":"info","event":"change","message":{quote(message[:MAX_CHARACTERS])},'
        f'"principal":"{SYSTEM}","reason":"{reason}","operator":{quote(operator)}}}\n'
    )


def prepare_request_line(exchange: Exchange) -> str:
    """Return the part of the line of the access log that is the same for all repetitions of an exchange."""
    return f'","level":"info",{_fixed(exchange)},{_constant(exchange)},"client":'


def repeated_request_lines(prepared: Sequence[str], repeated: Repetitions) -> str:
    """
    Return the lines of the access log for repeated exchanges, as one text.

    Args:
        prepared: of each, by :func:`prepare_request_line`.
    """
    # Joining the parts of all lines at once is quicker than formatting each line, and copies them only once.
    columns = zip(
        map(_opening, _scaled(repeated.ended_at, 1e3)),
        prepared,
        map(_quoted_client, repeated.clients),
        repeated.request_ids,
        map(_quoted_seconds, _scaled(repeated.seconds, 1e6)),
        map(_quoted_first_byte, _scaled(repeated.first_byte_seconds, 1e6)),
        strict=True,
    )
    return "".join(chain.from_iterable(columns))


def now() -> str:
    """Return the current time in UTC with milliseconds, as in RFC 3339."""
    return _millisecond(int(time.time() * 1000))


@lru_cache(maxsize=1)
def _millisecond(milliseconds: int) -> str:
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@lru_cache(maxsize=1)
def _opening(milliseconds: int) -> str:
    return f'{{"time":"{_millisecond(milliseconds)}'


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


@lru_cache(maxsize=1024)
def _quoted_client(client: str) -> str:
    return f'{quote(client)},"request_id":"'


@lru_cache(maxsize=4096)
def _quoted_seconds(microseconds: int) -> str:
    """Return the end of a request id and the field that follows it; the times of cached responses repeat."""
    return f'","seconds":{microseconds / 1e6:.6f}'


@lru_cache(maxsize=4096)
def _quoted_first_byte(microseconds: int) -> str:
    """Return the last field of a line."""
    return f',"first_byte_seconds":{microseconds / 1e6:.6f}}}\n'


def _scaled(numbers: Sequence[float], factor: float) -> Iterator[int]:
    return map(int, map(mul, numbers, repeat(factor)))


def _fixed(exchange: Exchange) -> str:
    """Return the fields that are the same in all exchanges with the same cached response."""
    notes = exchange.notes
    fields = notes.get(_NOTE) if notes else None
    if fields is None:
        message = f"{exchange.method} {exchange.target[:MAX_CHARACTERS]} {exchange.status}"
        fields = (
            f'"message":{quote(message)},"method":{quote(exchange.method[:MAX_CHARACTERS])},"route":"{exchange.route}",'
            f'"status":{exchange.status},"principal":{quote((exchange.principal or exchange.user)[:MAX_CHARACTERS])},'
            f'"repository":{quote(exchange.repository[:MAX_CHARACTERS])},'
            f'"reference":{quote(exchange.reference[:MAX_CHARACTERS])},'
            f'"digest":{quote(exchange.digest[:MAX_CHARACTERS])},"upstream":{quote(exchange.upstream)}'
        )
        if notes is not None:
            notes[_NOTE] = fields
    return fields


def _varying(exchange: Exchange) -> str:
    # Formatting by hand takes a third of the time of json.dumps.
    return (
        f'{_constant(exchange)},"client":{_quoted(exchange.client)},"request_id":"{exchange.request_id}",'
        f'"seconds":{exchange.seconds:.6f},"first_byte_seconds":{exchange.first_byte_seconds:.6f}'
    )


def _constant(exchange: Exchange) -> str:
    """Return the fields that are the same in all repetitions of an exchange, beside those of :func:`_fixed`."""
    return (
        f'"trace_id":"{exchange.trace_id}","bytes_in":{exchange.bytes_in},"bytes_out":{exchange.bytes_out},'
        f'"cached":{"true" if exchange.is_cached else "false"},'
        f'"user_agent":{_quoted(exchange.user_agent[:MAX_CHARACTERS])}'
    )


#: Clients and user agents repeat.
_quoted: Final = lru_cache(maxsize=1024)(quote)
