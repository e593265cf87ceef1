"""Client sockets over real socket pairs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


class TestConnectionsWhoseRequestsHaveArrived:
    def test_are_served_in_turn(self):
        done = subprocess.run([sys.executable, "-c", TURNS], cwd=ROOT, capture_output=True, text=True, check=True)
        order = done.stdout.split()
        assert ["01234"] * 2 == ["".join(one[1] for one in order if one[0] == name) for name in "ab"]
        assert all({"a", "b"} == {one[0] for one in pair} for pair in zip(order[::2], order[1::2], strict=True)), order
