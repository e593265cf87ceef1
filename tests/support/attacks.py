"""
Clients that use more than their share of a worker, for tests of its limits.

Each attack is a generator of :data:`ATTACKS`: until its first ``yield`` it prepares, and every step after
that continues it. ``python -m tests.support.attacks NAME PORT CONNECTIONS`` runs one until the process is ended, and
prints a line when it is prepared.
"""

from __future__ import annotations

import hashlib
import json
import resource
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"

#: JSON of nearly 4 MiB that becomes many small objects.
FILL = b"[" + b"[]," * 1_390_000 + b"[]]"

Attack = Callable[["Target", int], Iterator[None]]
ATTACKS: dict[str, Attack] = {}


def attack(function: Attack) -> Attack:
    """Add a generator to the attacks."""
    ATTACKS[function.__name__] = function
    return function


class Target:
    """The server under attack."""

    def __init__(self, port: int) -> None:
        self.port = port

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
            response = connection.getresponse()
            self.headers = response.headers
            return response.status, response.read()
        finally:
            connection.close()

    def start_upload(self) -> str:
        self.request("POST", "/v2/attack/blobs/uploads/")
        return self.headers["Location"]

    def push_blob(self, content: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.request("POST", f"/v2/attack/blobs/uploads/?digest={digest}", content)
        return digest

    def push_manifest(self, document: object, reference: str | None = None, media_type: str = OCI_MANIFEST) -> str:
        payload = json.dumps(document, separators=(",", ":")).encode().replace(b'"@@"', FILL)
        digest = f"sha256:{hashlib.sha256(payload).hexdigest()}"
        self.request("PUT", f"/v2/attack/manifests/{reference or digest}", payload, Content_Type=media_type)
        return digest

    def push_json(self, image_id: str) -> bytes:
        description = json.dumps({"id": image_id}).encode()
        self.request("PUT", f"/v1/images/{image_id}/json", description)
        return description


def crowd(target: Target, connections: int, sent: Callable[[int], bytes], trickle: bytes = b"") -> Iterator[None]:
    """
    Keep connections open that are silent, or trickle, after their first bytes; replace those that were closed.

    Args:
        sent: what the connection of a number sends first.
        trickle: what each of them sends every now and then.
    """
    waiting = selectors.DefaultSelector()

    def add(number: int) -> None:
        connection = target.connect()
        try:
            connection.sendall(sent(number))
        except OSError:
            connection.close()
            return
        connection.setblocking(False)
        waiting.register(connection, selectors.EVENT_READ, number)

    for number in range(connections):
        add(number)
    yield
    while True:
        time.sleep(0.2)
        for key, _ in waiting.select(timeout=0)[:2]:
            waiting.unregister(key.fileobj)
            key.fileobj.close()
            add(key.data)
        if trickle:
            for key in list(waiting.get_map().values())[::10]:
                try:
                    key.fileobj.send(trickle)
                except OSError:
                    pass
        yield


def flood(target: Target, connections: int, piece: bytes, *, reads: bool = False) -> Iterator[None]:
    """Send a piece again and again over a few connections, as fast as they take it."""
    opened = [target.connect() for _ in range(connections)]
    for connection in opened:
        connection.setblocking(False)
    yield
    whole = memoryview(piece)
    rests = [whole] * connections
    while True:
        blocked = 0
        for number, connection in enumerate(opened):
            rest = rests[number] or whole
            try:
                if reads:
                    drain(connection)
                rests[number] = rest[connection.send(rest) :]
            except BlockingIOError:
                rests[number] = rest
                blocked += 1
            except OSError:
                opened[number] = target.connect()
                opened[number].setblocking(False)
                rests[number] = whole
        if blocked == connections:
            time.sleep(0.02)
        yield


def drain(connection: socket.socket) -> None:
    try:
        while connection.recv(1 << 20):
            pass
    except BlockingIOError:
        pass


@attack
def empty_bodies(target: Target, connections: int) -> Iterator[None]:
    """Chunked bodies of one byte each, for which long ones might be expected."""
    head = "PUT /v1/repositories/attack/x{} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n"
    return crowd(target, connections, lambda number: head.format(number).encode())


@attack
def trickling_bodies(target: Target, connections: int) -> Iterator[None]:
    """Bodies of uploads that send a byte now and then."""
    location = target.start_upload()
    head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx".encode()
    return crowd(target, connections, lambda number: head, b"x")


@attack
def trickling_manifests(target: Target, connections: int) -> Iterator[None]:
    """Manifests of a megabyte whose last byte does not come."""
    head = b"PUT /v2/attack/manifests/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000001\r\n\r\n"
    return crowd(target, min(connections, 300), lambda number: head + bytes(1_000_000))


@attack
def silent_heads(target: Target, connections: int) -> Iterator[None]:
    """Heads of requests without end."""
    return crowd(target, connections, lambda number: b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: ", b"x")


@attack
def unread_responses(target: Target, connections: int) -> Iterator[None]:
    """Request a manifest of 4 MB without reading the response."""
    target.push_blob(b"{}")
    config = {"mediaType": "application/x", "digest": f"sha256:{hashlib.sha256(b'{}').hexdigest()}", "size": 2}
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": []}
    digest = target.push_manifest({**document, "annotations": {"x": "x" * 4_000_000}})
    head = f"GET /v2/attack/manifests/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    return crowd(target, min(connections, 300), lambda number: head)


@attack
def refused_bodies(target: Target, connections: int) -> Iterator[None]:
    """Send on after the body was rejected."""
    head = b"PUT /v2/attack/manifests/x HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"
    return crowd(target, connections, lambda number: head, bytes(100))


@attack
def one_byte_chunks(target: Target, connections: int) -> Iterator[None]:
    """Bodies in chunks of a byte."""
    location = target.start_upload()
    head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return flood(target, 4, head + b"1\r\nx\r\n" * 700_000 + b"0\r\n\r\n", reads=True)


@attack
def pipelined_requests(target: Target, connections: int) -> Iterator[None]:
    """Requests that do not wait for their responses."""
    pieces = (f"GET /v2/attack/manifests/x{number} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for number in range(1000))
    return flood(target, 4, b"".join(pieces), reads=True)


@attack
def nested_json(target: Target, connections: int) -> Iterator[None]:
    """A manifest of 4 MB of small arrays, asked for three times a second."""
    target.push_manifest({"mediaType": "x/y", "x": "@@"}, "big")
    yield
    while True:
        with target.connect() as connection:
            connection.sendall(b"GET /v2/attack/manifests/big HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.3)
        yield


def child(target: Target, subject: str, number: int) -> dict[str, object]:
    config = {"mediaType": "application/x", "digest": target.push_blob(b"{}"), "size": 2}
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config,
        "layers": [],
        "subject": {"mediaType": OCI_MANIFEST, "digest": subject, "size": 1},
        "annotations": {"number": str(number), "x": "x" * 4_000_000},
    }


@attack
def fallback_referrers(target: Target, connections: int) -> Iterator[None]:
    """Referrers by a fallback tag that names one large child many times."""
    subject = f"sha256:{'ab' * 32}"
    digest = target.push_manifest(child(target, subject, 0))
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{"digest": digest}] * 300}
    target.push_manifest(index, f"sha256-{'ab' * 32}", OCI_INDEX)
    return list_referrers(target, subject)


@attack
def large_referrers(target: Target, connections: int) -> Iterator[None]:
    """Many referrers of 4 MB."""
    subject = f"sha256:{'cd' * 32}"
    for number in range(20):
        target.push_manifest(child(target, subject, number))
    return list_referrers(target, subject)


def list_referrers(target: Target, subject: str) -> Iterator[None]:
    yield
    while True:
        with target.connect() as connection:
            connection.sendall(f"GET /v2/attack/referrers/{subject} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            time.sleep(0.5)
        yield


def zstd_frame(size: int, window_log: int, *, last: bool = True) -> bytes:
    """Return a frame of blocks of 128 KiB of zeros, four bytes each (RFC 8878)."""
    blocks = size // 131072
    head = b"\x28\xb5\x2f\xfd\x00" + bytes([(window_log - 10) << 3])
    block = struct.pack("<I", (1 << 1) | (131072 << 3))[:3] + b"\0"
    end = struct.pack("<I", 1 | (1 << 1) | (131072 << 3))[:3] + b"\0"
    return head + block * (blocks - 1) + (end if last else block)


@attack
def layer_bombs(target: Target, connections: int) -> Iterator[None]:
    """Layers of API V1 that expand by 32,000."""
    body = zstd_frame(1 << 30, 17) * 32
    yield
    number = 0
    while True:
        image_id = hashlib.sha256(b"bomb%d" % number).hexdigest()
        target.push_json(image_id)
        with target.connect() as connection:
            head = f"PUT /v1/images/{image_id}/layer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
        number += 1
        time.sleep(0.1)
        yield


@attack
def window_memory(target: Target, connections: int) -> Iterator[None]:
    """Layers of API V1 whose decompression needs 128 MiB, left open."""
    frame = zstd_frame(200 * 1024 * 1024, 27, last=False)
    raw = (struct.pack("<I", 131072 << 3)[:3] + bytes(131072)) * 18

    def sent(number: int) -> bytes:
        image_id = hashlib.sha256(b"window%d" % number).hexdigest()
        target.push_json(image_id)
        head = f"PUT /v1/images/{image_id}/layer HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"
        return head.encode() + frame + raw

    return crowd(target, 30, sent)


@attack
def endless_tar_headers(target: Target, connections: int) -> Iterator[None]:
    """A layer of extended tar headers without members, whose files are asked for."""
    from backports import zstd

    header = bytearray(512)
    header[0:1], header[100:108], header[124:136], header[156:157] = b"x", b"0000644\0", b"00000000000\0", b"x"
    header[257:265], header[148:156] = b"ustar\x0000", b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    body = zstd.compress(bytes(header) * 2**15, 19) * 16
    image_id = hashlib.sha256(b"endless").hexdigest()
    description = target.push_json(image_id)
    target.request("PUT", f"/v1/images/{image_id}/layer", body)
    digest = hashlib.sha256(description + b"\n" + body).hexdigest()
    target.request("PUT", f"/v1/images/{image_id}/checksum", X_Docker_Checksum_Payload=f"sha256:{digest}")
    yield
    while True:
        with target.connect() as connection:
            connection.sendall(f"GET /v1/images/{image_id}/files HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            time.sleep(0.5)
        yield


def main(name: str, port: str, connections: str) -> None:
    """Run an attack until this process is ended."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    steps = ATTACKS[name](Target(int(port)), int(connections))
    next(steps)
    print("prepared", flush=True)
    while True:
        try:
            next(steps)
        except OSError as error:  # an attack continues after countermeasures
            print(error, flush=True)
            steps = ATTACKS[name](Target(int(port)), int(connections))


if __name__ == "__main__":
    main(*sys.argv[1:])
