"""
Well-behaved clients that push and pull, and report how long it took.

``python -m tests.support.clients.honest PORT SECONDS CLIENTS`` prints a line when it is ready, waits for one, works,
and prints JSON::

    {"cycles": [[0.031, …], …], "latencies": [0.004, …], "errors": ["…"]}

A cycle is the push of an image of 256 KiB and its pull; each client makes one in three seconds, if it can, and at least
one. With no clients the latency of ``GET /v2/`` is measured instead, in a separate process that the clients do not
delay.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

import requests

from tests.support.clients.v2 import Client, digest_of, encoded

LAYER_BYTES = 256 * 1024
CYCLE_SECONDS = 3.0


def push_and_pull(client: Client, name: str) -> None:
    """Push an image with a new layer, and pull it."""
    layer, config = (
        os.urandom(LAYER_BYTES),
        encoded({"architecture": "amd64", "os": "linux", "id": os.urandom(4).hex()}),
    )
    digests = [client.push_blob(name, content, "streamed") for content in (layer, config)]
    payload = encoded(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/x", "digest": digests[1], "size": len(config)},
            "layers": [{"mediaType": "application/x", "digest": digests[0], "size": len(layer)}],
        }
    )
    client.put_manifest(name, "latest", payload)
    pulled = client.get_manifest(name, "latest")
    assert digest_of(payload) == pulled.digest
    assert layer == client.get_blob(name, digests[0])


def work(port: int, number: int, until: float, cycles: list[float], errors: list[str]) -> None:
    with Client(f"http://127.0.0.1:{port}") as client:
        time.sleep(number * CYCLE_SECONDS / 20)  # the clients do not begin all at once
        while (began := time.monotonic()) < until or not cycles:
            try:
                push_and_pull(client, f"honest/client{number}")
            except Exception as error:  # noqa: BLE001 - it is told
                errors.append(f"client {number}: {error!r}")
                return
            cycles.append(time.monotonic() - began)
            time.sleep(max(0, began + CYCLE_SECONDS - time.monotonic()))


def probe(port: int, until: float, latencies: list[float], errors: list[str]) -> None:
    """Send each request over a new connection."""
    while (began := time.monotonic()) < until:
        try:
            assert 200 == requests.get(f"http://127.0.0.1:{port}/v2/", timeout=60).status_code
        except Exception as error:  # noqa: BLE001 - it is told
            errors.append(f"GET /v2/: {error!r}")
        latencies.append(time.monotonic() - began)
        time.sleep(0.02)


def main(port: str, seconds: str, clients: str) -> None:
    """Work for some seconds, then print what happened."""
    print("ready", flush=True)
    sys.stdin.readline()  # another process may still be importing, which takes the processor from the first client
    until = time.monotonic() + float(seconds)
    cycles: list[list[float]] = [[] for _ in range(int(clients))]
    latencies: list[float] = []
    errors: list[str] = []
    threads = [
        threading.Thread(target=work, args=(int(port), number, until, cycles[number], errors))
        for number in range(int(clients))
    ]
    if not threads:
        probe(int(port), until, latencies, errors)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"cycles": cycles, "latencies": latencies, "errors": errors}))


if __name__ == "__main__":
    main(*sys.argv[1:])
