"""
Recordings of old versions of Docker with a running docker-registry 0.7.1, and their replay.

A file in ``recordings/`` records one version of Docker; its name begins with its position in the order::

    {"headers": [["Host: 127.0.0.1:5000", "Content-Length: {}"], …],
     "exchanges": ["docker push …", [["PUT /v1/…", 0, ["2"], "[]"], [200, 1, ["4"], "true"]], …]}

A command is followed by its exchanges: of the request the first line, the number of its headers, the values of their
placeholders, and its body; of the response the status instead of the first line. A body is text, ``{"text": <key>}`` of
``bodies.json``, or ``{"layer": <sha256>, "size": …, "chunks": [<number>, [<size>, …]]}``. The headers ``Server`` and
``Date`` of 0.7.1 were omitted, and the content of layers: each is generated with its original size.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import itertools
import json
import random
import re
import socket
import struct
import tarfile
import zlib
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

FOLDER = Path(__file__).parent / "recordings"
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("[0-9]*.json")))

TIMEOUT_SECONDS = 60

#: The value that replaces the time of a response in headers of both sides.
IN_A_YEAR = "in a year"

_SIGNATURE = re.compile(r"(?<=signature=)[^,]+")
_GZIP_HAS_COMMENT = 16


@dataclass(frozen=True)
class Request:
    """A request of Docker; *chunks* has the number and the first sizes of the chunks of its body, if it had chunks."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    chunks: tuple[int, tuple[int, ...]] | None

    @property
    def image_id(self):
        """The image that is requested or pushed."""
        return self.target.split("/")[3]

    def header(self, name):
        return dict(self.headers).get(name)


@dataclass(frozen=True)
class Answer:
    """A response; headers are sorted by name."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def without(self, name):
        return dataclasses.replace(self, headers=tuple(pair for pair in self.headers if pair[0] != name))

    def having(self, name, *values):
        """The same with other values, or none, of a header."""
        headers = (*self.without(name).headers, *((name, value) for value in values))
        return dataclasses.replace(self, headers=tuple(sorted(headers)))

    def saying(self, body, content_type=None):
        """The same with another body."""
        answer = dataclasses.replace(self, body=body).having("Content-Length", str(len(body)))
        return answer if content_type is None else answer.having("Content-Type", content_type)


@dataclass(frozen=True)
class Exchange:
    """A request and its response, and the command of Docker that sent it."""

    command: str
    request: Request
    answer: Answer


def read(name):
    """Return the exchanges of a recording, in the order in which they were made."""
    recording = json.loads((FOLDER / f"{name}.json").read_text())
    texts = json.loads((FOLDER / "bodies.json").read_text())
    exchanges, command = [], ""
    for row in recording["exchanges"]:
        if isinstance(row, str):
            command = row
            continue
        (line, *sent), (status, *said) = row
        method, target = line.split(" ")
        chunks = sent[2].get("chunks") if isinstance(sent[2], dict) else None
        request = Request(
            method,
            target,
            _fill(recording["headers"][sent[0]], sent[1]),
            _body(sent[2], texts),
            chunks and (chunks[0], tuple(chunks[1])),
        )
        headers = tuple(sorted(_fill(recording["headers"][said[0]], said[1])))
        exchanges.append(Exchange(command, request, Answer(status, headers, _body(said[2], texts))))
    return exchanges


def _fill(lines, values):
    remaining = iter(values)
    filled = (re.sub(r"\{\}", lambda _: next(remaining), line) for line in lines)
    return tuple(tuple(line.split(": ", 1)) if ": " in line else (line.rstrip(":"), "") for line in filled)


def _body(recorded, texts):
    if recorded is None:
        return b""
    if isinstance(recorded, str):
        return recorded.encode()
    if "text" in recorded:
        return texts[recorded["text"]].encode()
    return build_layer(recorded["layer"], recorded["size"])


def build_layer(seed, size):
    """Create a gzipped tar of exactly this many bytes, the same for the same *seed*."""
    random_bytes = random.Random(seed)
    for content in (size - 600, 1, None):
        if content is not None and content <= 0:
            continue
        tar = _tar(random_bytes.randbytes(content)) if content else bytes(1024)
        deflated = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        packed = deflated.compress(tar) + deflated.flush() + struct.pack("<LL", zlib.crc32(tar), len(tar))
        comment = size - len(packed) - 10
        if comment > 0:
            layer = b"\x1f\x8b\x08" + bytes([_GZIP_HAS_COMMENT]) + bytes(6) + b" " * (comment - 1) + b"\0" + packed
            assert (size, tar) == (len(layer), gzip.decompress(layer))
            return layer
    raise AssertionError(f"nothing is packed into {size} bytes")


def _tar(content):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo("f")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()[: 512 + -(-len(content) // 512) * 512] + bytes(1024)


class Replay:
    """
    Replays recordings with one registry, one after another.

    The content of layers, their checksums, and the signatures of tokens differ from the recorded ones:
    recorded messages are adapted before they are sent and compared.
    """

    def __init__(self, port):
        self._port = port
        self._payloads = {}
        self._layers = {}
        #: Recorded values, and those of the replay.
        self._meaning = {}

    def play(self, exchange):
        """Send a request; return the recorded response with the values of the replay, and the received one."""
        request = self._prepare(exchange.request)
        answer = _send(self._port, request)
        self._learn_signature(exchange.answer, answer)
        return self._translate(_without_time(exchange.answer, None)), answer

    def list_image(self, repository, image_id):
        """Begin a push, like an interrupted Docker."""
        body = json.dumps([{"id": image_id}]).encode()
        headers = (("Host", "127.0.0.1"), ("Content-Length", str(len(body))), ("Connection", "close"))
        answer = _send(self._port, Request("PUT", f"/v1/repositories/{repository}/", headers, body, None))
        assert 200 == answer.status

    def _prepare(self, request):
        if request.method == "PUT" and request.target.startswith("/v1/images/"):
            part = request.target.rsplit("/", 1)[1]
            if part == "json":
                self._payloads[request.image_id] = request.body
            elif part == "layer":
                self._layers[request.image_id] = request.body
            elif part == "checksum":
                content = self._payloads[request.image_id] + b"\n" + self._layers[request.image_id]
                recorded = request.header("X-Docker-Checksum-Payload")
                self._meaning[recorded] = f"sha256:{hashlib.sha256(content).hexdigest()}"
        return dataclasses.replace(request, headers=self._translate_headers(request.headers))

    def _learn_signature(self, recorded, answer):
        for name, value in recorded.headers:
            ours = dict(answer.headers).get(name, "")
            if name == "X-Docker-Token" and _SIGNATURE.search(ours):
                self._meaning[_SIGNATURE.search(value)[0]] = _SIGNATURE.search(ours)[0]

    def _translate(self, answer):
        return dataclasses.replace(answer, headers=tuple(sorted(self._translate_headers(answer.headers))))

    def _translate_headers(self, headers):
        known = self._meaning
        return tuple(
            (name, _SIGNATURE.sub(lambda found: known.get(found[0], found[0]), known.get(value, value)))
            for name, value in headers
        )


def _send(port, request):
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS) as connection:
        head = [f"{request.method} {request.target} HTTP/1.1"]
        head += [f"{name}: {value}" for name, value in request.headers]
        connection.sendall("\r\n".join([*head, "", ""]).encode("latin-1"))
        for piece in _pieces(request):
            connection.sendall(piece)
        with connection.makefile("rb") as stream:
            return _receive(stream)


def _pieces(request):
    """Divide a body as Docker did: the sizes of the first chunks were recorded, and the number of the others."""
    if request.chunks is None:
        yield request.body
        return
    count, first = request.chunks
    body = io.BytesIO(request.body)
    rest = max(count - len(first) - 1, 1)
    after = -(-max(len(request.body) - sum(first), 0) // rest)
    for size in (*first, *itertools.repeat(after, rest)):
        if piece := body.read(size):
            yield b"%x\r\n%b\r\n" % (len(piece), piece)
    assert b"" == body.read(), "the recorded chunks do not hold the body"
    yield b"0\r\n\r\n"


def _receive(stream):
    status = int(stream.readline().split(b" ")[1])
    headers = []
    while line := stream.readline().rstrip(b"\r\n"):
        name, _, value = line.decode("latin-1").partition(": ")
        headers.append((name, value))
    length = dict(headers).get("Content-Length")
    is_last = dict(headers).get("Connection") == "close"
    body = stream.read() if is_last or length is None else stream.read(int(length))
    date = dict(headers)["Date"]
    headers = tuple(sorted(pair for pair in headers if pair[0] not in ("Server", "Date")))
    return _without_time(Answer(status, headers, body), date)


def _without_time(answer, date):
    """Replace the time at which a response expires, because the recording was made on another day."""
    expires = dict(answer.headers).get("Expires", "-1")
    if expires == "-1":
        return answer
    days = 365 if date is None else (parsedate_to_datetime(expires) - parsedate_to_datetime(date)).days
    return answer.having("Expires", IN_A_YEAR) if 364 <= days <= 366 else answer
