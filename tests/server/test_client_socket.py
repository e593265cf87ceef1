"""Client sockets over real socket pairs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.certificates import Authority
from tests.support.gevent_program import under_gevent

ROOT = Path(__file__).parent.parent.parent

#: Two connections have several requests each in their buffers. Each receive of a SEQPACKET socket returns one of them.
TURNS = """
from gevent import monkey; monkey.patch_all()
import gevent, socket
from docker_registry.server.client_socket import PlainSocket

def serve(name, server, order):
    for _ in range(5):
        order.append(name + server.receive_head(takes_turns=True).decode())

order, greenlets, clients = [], [], []
for name in "ab":
    client, server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    clients.append(client)
    for number in range(5):
        client.send(b"%d" % number)
    server = PlainSocket(server.family, server.type, server.proto, fileno=server.detach())
    greenlets.append(gevent.spawn(serve, name, server, order))
gevent.joinall(greenlets)
print(" ".join(order))
"""

#: A body of 20,000 bytes arrives byte by byte, then a part of another one, and nothing more.
SHORT_PIECES = """
from gevent import monkey; monkey.patch_all()
import gevent, json, socket, time
from docker_registry.server.client_socket import PlainSocket
from docker_registry.server.connections import Activity
from docker_registry.server.request_body import LengthBody

with socket.create_server(("127.0.0.1", 0)) as listener:
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
server = PlainSocket(server.family, server.type, server.proto, fileno=server.detach())
server.settimeout(1)
client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

def receive(length):
    body = LengthBody(server, b"", lambda rest: None, length)
    server.begin(Activity.WORKING, body)
    buffer, pieces = memoryview(bytearray(65536)), []
    while arrived := body.readinto(buffer):
        pieces.append(arrived)
    return body.complete, pieces

receiving = gevent.spawn(receive, 20_000)
for number in range(20_000):
    if number == 10_000:
        gevent.sleep(0.1)
        half = server.moved_bytes
    client.send(b"x")
    if number % 10 == 0:
        gevent.sleep(0)
complete, pieces = receiving.get()
server.begin(Activity.WAITING)
client.send(b"GET")
head = server.receive_head()
client.send(b"x")
receiving = gevent.spawn(receive, 20_000)
gevent.sleep(0.1)
client.send(b"yz")
print(json.dumps([complete, sum(pieces), len(pieces), half, head.decode(), receiving.get()]))
"""

#: A response with a file between literal bytes.
SEGMENTS = """
import socket, sys, tempfile
from docker_registry.server.client_socket import PlainSocket
from docker_registry.server.connections import Activity

class Parts:
    def __init__(self, file, is_arriving):
        self.fileno = file.fileno
        self.is_arriving = is_arriving

    def segments(self):
        yield b"first "
        if self.is_arriving:
            assert client.recv(100, socket.MSG_PEEK) == b"head first "
        yield from [(self.fileno(), 0, 4), b" second ", (self.fileno(), 4, 4), b" last"]

for is_arriving in (False, True):
    client, server = socket.socketpair()
    server = PlainSocket(server.family, server.type, server.proto, fileno=server.detach())
    server.begin(Activity.WORKING)
    server.send_head(b"head ")
    with tempfile.TemporaryFile() as file:
        file.write(b"onlytext")
        file.flush()
        server.sendfile(Parts(file, is_arriving))
    server.close()
    sent = client.makefile("rb").read()
    print(sent.decode())
    print(server.file_bytes, server.moved_bytes, len(sent))
"""

#: Responses from the cache whose bodies are read from a store: complete, empty, short, long, and broken off.
STORED = """
import logging, socket, ssl
from docker_registry.errors import StorageUnavailable
from docker_registry.server.cached_exchanges import send_cached
from docker_registry.server.client_socket import PlainSocket
from docker_registry.server.response_cache import CachedResponse, Hit
from docker_registry.server.sending_socket import StoredBody

def blocks(*contents):
    try:
        for content in contents:
            if isinstance(content, Exception):
                raise content
            yield content
    finally:
        print("closed", end=" ")

logging.disable()
LARGE = b"x" * 70000
for contents, length in (
    ((b"a", LARGE), 70001), ((LARGE,), 70000), ((), 0), ((b"ab", b"c"), 4), ((b"ab", b"cd"), 3),
    *(((b"ab", error, b"c"), 3) for error in (StorageUnavailable("away"), ValueError("no"), ssl.SSLError("no"))),
):
    client, server = socket.socketpair()
    server = PlainSocket(server.family, server.type, server.proto, fileno=server.detach())
    response = CachedResponse(b"head ", b" ", None, None, stored=StoredBody(None, length))
    try:
        send_cached(server, Hit(response, None, None, None, blocks(*contents)), 60)
        ended = "sent"
    except ConnectionResetError:
        ended = "failed"
    counted = server.file_bytes
    server.close()
    sent = client.makefile("rb").read()
    print(ended, sent[:4].decode(), len(sent) - len("head  Mon, 30 Nov 2026 01:30:00 GMT"), counted)

client, server = socket.socketpair()
server = PlainSocket(server.family, server.type, server.proto, fileno=server.detach())
response = CachedResponse(b"head ", b" ", None, None, stored=StoredBody(None, 10**7))
try:
    send_cached(server, Hit(response, None, None, None, iter([b"x" * 10**7])), 0.01)
except ConnectionResetError:
    counted = server.file_bytes
server.close()
print("unread", len(client.makefile("rb").read()) - len("head  Mon, 30 Nov 2026 01:30:00 GMT") == counted > 0)
"""

#: What is copied of responses whose bodies are read from a store, and whether their bodies are to be read again.
COPIES = """
import os, socket, ssl
from docker_registry.api.downloads import SegmentedBody
from docker_registry.server.client_socket import PlainSocket

for length in (0, 3, 65_000, 70_000):
    client, server = socket.socketpair()
    server = PlainSocket(server.family, server.type, server.proto, fileno=server.detach())
    server.begin_copy()
    server.send_head(b"head ")
    blocks = iter([b"x" * length] if length else [])
    server.sendfile(SegmentedBody(blocks, lambda: iter(())), count=length)
    copied, body = server.end_copy()
    server.close()
    print(len(client.makefile("rb").read()), len(copied), body and body.length)

def broken():
    yield b"x"
    raise ssl.SSLError("no")

client, server = socket.socketpair()
server = PlainSocket(server.family, server.type, server.proto, fileno=server.detach())
try:
    server.sendfile(SegmentedBody(broken(), broken), count=2)
except Exception as error:
    print(type(error).__name__)
"""

#: A client in another process receives as fast as it can, while a greenlet notes how much was sent whenever it runs.
TLS_TURNS = """
import socket, sys
from subprocess import DEVNULL, PIPE, Popen
from gevent import ssl
from docker_registry.server.connections import Activity
from docker_registry.server.tls import _TURN_BYTES, TlsContext

BLOCK, COUNT = 128 * 1024, 80
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(*sys.argv[1:])

with socket.create_server(("127.0.0.1", 0)) as listener:
    command = ["openssl", "s_client", "-quiet", "-connect", f"127.0.0.1:{listener.getsockname()[1]}"]
    client = Popen(command, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL)
    accepted, _ = listener.accept()
server = TlsContext(lambda: context).wrap_socket(accepted)
server.do_handshake()
server.begin(Activity.WORKING)
seen = [0]

def watch():
    while True:
        seen.append(server.moved_bytes)
        gevent.sleep(0)

watching = gevent.spawn(watch)
gevent.sleep(0)
for _ in range(COUNT):
    server.sendall(bytes(BLOCK))
seen.append(server.moved_bytes)
watching.kill()
client.kill()
client.wait()
print(seen[-1] == BLOCK * COUNT, max(b - a for a, b in zip(seen, seen[1:])) <= _TURN_BYTES)
"""

#: Clients shut down their sending side, or close their connections, by TLS after a close_notify (RFC 5246, section
#: 7.2.1), which stays unread.
DEPARTURES = """
import contextlib, socket, struct, sys, time
from gevent import ssl
from docker_registry.server.client_socket import PlainSocket
from docker_registry.server.tls import TlsContext

context, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.load_cert_chain(*sys.argv[1:])
context.maximum_version = ssl.TLSVersion.TLSv1_2  # later versions send tickets, which this client would not read
trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE

def has_left_at_last():
    for _ in range(6000):
        if server.has_left():
            break
        gevent.sleep(0.01)
    return server.has_left()

for by_tls in (False, True):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    if by_tls:
        server = TlsContext(lambda: context).wrap_socket(server)
        shaking = gevent.spawn(server.do_handshake)
        client = trusting.wrap_socket(client)
        shaking.get()
    else:
        server = PlainSocket(server.family, server.type, server.proto, fileno=server.detach())
    print(server.has_left())
    if by_tls:
        client.settimeout(0)
        with contextlib.suppress(ssl.SSLWantReadError):
            client.unwrap()
    plain = socket.socket(fileno=client.detach())
    plain.shutdown(socket.SHUT_WR)
    print(has_left_at_last())
    server.active_since = time.monotonic() + 3600
    print(server.has_left())  # it may still read
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    plain.close()  # reset
    print(has_left_at_last())
    server.close()
    print(server.has_left())
"""


class TestAClientThatLeaves:
    def test_is_noticed(self, tmp_path):
        expected = 2 * ["False", "True", "False", "True", "True"]
        assert expected == under_gevent(DEPARTURES, *map(str, Authority(tmp_path).issue("server")))


class TestALargeResponseByTls:
    def test_lets_others_run(self, tmp_path):
        assert ["True", "True"] == under_gevent(TLS_TURNS, *map(str, Authority(tmp_path).issue("server")))


class TestAResponseInSegments:
    def test_is_counted_once(self):
        expected = "head first only second text last 27 32 32"
        assert 2 * expected.split() == under_gevent(SEGMENTS)


class TestAResponseWithABodyInAStore:
    def test_is_never_shorter_or_longer_than_announced(self):
        failed = [f"failed head {count} {count}" for count in (3, 2, 2, 2, 2)]
        outcomes = ["sent head 70001 70001", "sent head 70000 70000", "sent head 0 0", *failed]
        lines = " ".join(f"closed {outcome}" for outcome in outcomes)
        assert f"{lines} unread True".split() == under_gevent(STORED)

    def test_is_copied_with_its_body_if_that_is_short(self):
        lines = ["5 5 None", "8 8 None", "65005 65005 None", "70005 5 70000"]
        assert [*" ".join(lines).split(), "StorageError"] == under_gevent(COPIES)


class TestABodyInShortSegments:
    def test_wakes_its_receiver_rarely(self):
        done = subprocess.run(
            [sys.executable, "-c", SHORT_PIECES], cwd=ROOT, capture_output=True, text=True, check=True
        )
        complete, received, pieces, half, head, cut = json.loads(done.stdout)
        assert (True, 20_000, 10_000, "GET") == (complete, received, half, head)
        assert pieces < 10
        assert [False, [1, 2]] == cut


class TestConnectionsWithPendingRequests:
    def test_are_served_in_turn(self):
        done = subprocess.run([sys.executable, "-c", TURNS], cwd=ROOT, capture_output=True, text=True, check=True)
        order = done.stdout.split()
        assert ["01234"] * 2 == ["".join(one[1] for one in order if one[0] == name) for name in "ab"]
        assert all({"a", "b"} == {one[0] for one in pair} for pair in zip(order[::2], order[1::2], strict=True)), order
