"""
Exchanges that are answered from the response cache: how responses are sent and reported.

See :mod:`docker_registry.server.observation`.
"""

from __future__ import annotations

import errno
import logging
import time
from typing import Any

from docker_registry.concurrency import close_now
from docker_registry.errors import RegistryError
from docker_registry.http.exchange import Exchange, ignores, takes_batches
from docker_registry.server.client_socket import ClientSocket
from docker_registry.server.connections import Activity
from docker_registry.server.observation import MAX_RECORDED, RECORDED_VALUES, Observation, trace_id
from docker_registry.server.response_cache import Hit, RequestHead

logger = logging.getLogger(__name__)


class CachedExchanges:
    """Reports the exchanges of a worker that were answered from the response cache."""

    def __init__(self, observation: Observation) -> None:
        self._observation = observation

    def report(self, hit: Hit, client: ClientSocket, began: float, *, is_complete: bool = True) -> None:
        """
        Report a request that was answered from the response cache.

        Args:
            began: when the request was received, in seconds of :func:`time.perf_counter`.
            is_complete: whether the whole response was sent.
        """
        known = hit.request
        if known is not None and known.prepared and is_complete:
            observation = self._observation
            recorded = observation.recorded
            recorded += (known, client.address, began, client.answered_at, time.perf_counter())
            if len(recorded) >= MAX_RECORDED * RECORDED_VALUES:
                observation.deliver()
            elif not observation.is_scheduled:
                observation.deliver_soon()
        elif hit.response.exchange is not None and not (known is not None and known.prepared == () and is_complete):
            self._report_unrecorded(hit.response.exchange, hit, client, began, is_complete=is_complete)

    def _report_unrecorded(
        self, cached: Exchange, hit: Hit, client: ClientSocket, began: float, *, is_complete: bool
    ) -> None:
        """Report a cached response at once, or the first one of a request that is prepared for its repetitions."""
        known, exchange = hit.request, self._cached(cached, hit, client, began)
        if known is not None and is_complete and not known.is_prepared:
            known.forwarded = _forwarded(hit.head)
            known.prepared = self._prepare(exchange)
            known.is_prepared = True
        if known is None or not is_complete or known.prepared is None:
            self._observation.send(exchange)
        else:
            self.report(hit, client, began)

    def _cached(self, cached: Exchange, hit: Hit, client: ClientSocket, began: float) -> Exchange:
        head = hit.head
        traceparent = head.header(b"traceparent")
        return cached._replace(
            bytes_in=0,
            bytes_out=cached.bytes_out if hit.fd is None and hit.blocks is None else client.file_bytes,
            seconds=time.perf_counter() - began,
            first_byte_seconds=client.answered_at - began,
            request_id=self._observation.ids.adopt(head.header(b"x-request-id")),
            trace_id=trace_id(traceparent),
            is_cached=True,
            client=self._observation.proxies.client_of(client.address, _forwarded(head)),
            user_agent=head.header(b"user-agent"),
            referrer=head.header(b"referer"),
            traceparent=traceparent,
        )

    def _prepare(self, exchange: Exchange) -> tuple[Any, ...] | None:
        """
        Return what each batch observer prepares for the repetitions of an exchange.

        Returns:
            Empty if no observer needs them; None if one has to receive each of them at once.
        """
        prepared = []
        for observer in self._observation.observers:
            try:
                if takes_batches(observer):
                    prepared.append(observer.prepare(exchange))
                elif not ignores(observer, exchange):
                    return None
            except Exception:  # an observer must not affect the response
                logger.exception("An observer of requests failed")
                return None
        return tuple(prepared)


def send_cached(client: ClientSocket, hit: Hit, silence_seconds: float) -> None:
    """
    Send a response of the cache, and close the file or the blocks with its body.

    Args:
        silence_seconds: after which time without a byte sent the transfer is aborted.

    Raises:
        OSError: the client disconnected or stopped reading, or the store failed while the body was read.
    """
    client.settimeout(silence_seconds)
    client.answered_at = time.perf_counter()
    file, stored = hit.response.file, hit.response.stored
    try:
        if hit.fd is not None and file is not None:
            client.begin(Activity.WORKING)
            client.send_file_slice(hit.response.now(), hit.fd, file)
        elif hit.blocks is not None and stored is not None:
            client.begin(Activity.WORKING)
            client.send_blocks(hit.response.now(), hit.blocks, stored.length)
        else:
            client.sendall(hit.response.now())
    except TimeoutError:
        raise ConnectionResetError(errno.ECONNRESET, "the client has been silent for too long") from None
    except RegistryError as error:
        cause = error.__cause__
        logger.warning("A response was cut off because its body could not be read: %s", error, exc_info=cause)
        raise ConnectionResetError(errno.ECONNRESET, "the body could not be read") from None
    finally:
        if hit.fd is not None:
            close_now(hit.fd)
        if hit.blocks is not None:
            close = getattr(hit.blocks, "close", None)
            if close is not None:
                close()
    client.settimeout(None)


def _forwarded(head: RequestHead) -> str:
    return head.header(b"x-forwarded-for") or head.header(b"forwarded")
