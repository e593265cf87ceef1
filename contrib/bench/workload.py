"""
Rows of pulls as registries see them: many layers of real sizes, a few of which are requested most of the time.

The sizes and popularities are those that a study found in IBM's production registries (Anwar et al., "Improving Docker
Registry Design Based on Production Workload Analysis", FAST 2018): 65 % of the layers are below 1 MB and 80 % below
10 MB, and 1 % of the layers get half of the requests. Within these classes sizes are spread evenly on a logarithmic
scale, from 1 kB to 16 MB. The workload is the same in each run. wrk sends the requests; it cannot send HEAD.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench import Bench, require
from rows import Rate, Row, Sides

from tests.support.clients.v2 import Client
from tests.support.images import OCI_LAYER, Image, descriptor

REPOSITORY = "bench/real"
LAYERS = 300
SECONDS = 8
SEED = 2018

#: Upper quantile of the layers, and the exponents of ten between which their sizes lie.
_CLASSES = ((0.65, 3.0, 6.0), (0.80, 6.0, 7.0), (1.0, 7.0, 7.2))

#: This part of the layers gets half of the requests.
_POPULAR = 0.01

#: Requests in a script of wrk, which picks one of them at random.
_REQUESTS = 4000

#: Of mixed requests: manifests by tag, configurations, and layers.
_MIXTURE = (0.3, 0.2, 0.5)

DISTRIBUTION_3 = "distribution 3.1.1"


def size_of(quantile: float) -> int:
    """Return the size of the layer at a quantile of all layers, bytes."""
    below = 0.0
    for upper, smallest, largest in _CLASSES:
        if quantile < upper:
            return int(10 ** (smallest + (largest - smallest) * (quantile - below) / (upper - below)))
        below = upper
    raise ValueError(quantile)


class Workload:
    """
    Layers, images of one layer each, and the requests for them.

    Attributes:
        layers: contents.
        images: one for each layer, by tag.
    """

    def __init__(self, scale: float = 1) -> None:
        """
        Args:
            scale: of the sizes.
        """
        chance = random.Random(SEED)
        count = max(10, int(LAYERS * min(scale * 10, 1)))
        popular = max(1, round(count * _POPULAR))
        # The popular layers are spread over the sizes, because a few of them decide how large a response is on average.
        quantiles = [(number + 1) / (popular + 1) for number in range(popular)]
        quantiles += [(number + 0.5) / (count - popular) for number in range(count - popular)]
        material = chance.randbytes(size_of(0.999) + 1)
        self.layers = [
            b"%016d" % number + material[: max(0, int(size_of(quantile) * min(scale, 1)) - 16)]
            for number, quantile in enumerate(quantiles)
        ]
        self.images = {f"t{number}": _image(layer, number) for number, layer in enumerate(self.layers)}
        self._weights = [0.5 / popular] * popular + [0.5 / (count - popular)] * (count - popular)
        self._chance = chance

    def push(self, url: str) -> None:
        """Push everything to a registry."""
        with Client(url) as client:
            for tag, image in self.images.items():
                for content in (*image.layers, image.config):
                    client.push_blob(REPOSITORY, content, "put")
                client.put_manifest(REPOSITORY, tag, image.manifest, image.media_type)

    def write(self, folder: Path) -> None:
        """Write everything as files that a web server can serve under the same URLs."""
        target = folder / "v2" / REPOSITORY / "blobs"
        target.mkdir(parents=True)
        for image in self.images.values():
            for digest, content in image.blobs.items():
                (target / digest).write_bytes(content)

    def blobs(self) -> list[str]:
        """Return the paths of requests for layers."""
        return self._paths((0, 0, 1))

    def mixed(self) -> list[str]:
        """Return the paths of requests of all kinds."""
        return self._paths(_MIXTURE)

    def small(self) -> list[str]:
        """Return the paths of requests for manifests and configurations."""
        return self._paths((0.5, 0.5, 0))

    def _paths(self, mixture: Sequence[float]) -> list[str]:
        tags = self._chance.choices(list(self.images), self._weights, k=_REQUESTS)
        kinds = self._chance.choices(range(3), mixture, k=_REQUESTS)
        return [
            f"/v2/{REPOSITORY}/{_target(kind, tag, self.images[tag])}" for kind, tag in zip(kinds, tags, strict=True)
        ]


def _target(kind: int, tag: str, image: Image) -> str:
    layer, config = image.blobs
    return (f"manifests/{tag}", f"blobs/{config}", f"blobs/{layer}")[kind]


def _image(layer: bytes, number: int) -> Image:
    config = {
        "architecture": "amd64", "os": "linux", "created": f"2018-01-01T00:00:{number % 60:02}Z",
        "rootfs": {"type": "layers", "diff_ids": [descriptor(layer, OCI_LAYER)["digest"]]},
        "config": {"Env": [f"NUMBER_{each}={number}" for each in range(60)]},
    }  # fmt: skip
    return Image("amd64", json.dumps(config).encode(), (layer,))


def load(bench: Bench, connections: int, paths: Sequence[str], url: str) -> Rate:
    """Run wrk and return the requests per second and their latency; fails if any response is an error."""
    script = bench.folder / f"{connections}.lua"
    listed = ", ".join(f'"{path}"' for path in paths)
    accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
    script.write_text(
        f'local paths = {{{listed}}}\nwrk.headers["Accept"] = "{accept}"\n'
        'request = function() return wrk.format("GET", paths[math.random(#paths)]) end\n'
    )
    seconds = max(1, int(SECONDS * min(bench.scale, 1)))
    command = [
        require("wrk", "wrk"), "-t2", f"-c{connections}", f"-d{seconds}", "--latency", "--timeout", "20", "-s",
        str(script), url,
    ]  # fmt: skip
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "Non-2xx" not in output and "Socket errors" not in output, output
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    late = re.search(r"\n\s+99%\s+([\d.]+)(us|ms|s|m)\s*\n", output)  # wrk pads units of one letter
    assert rate and late, output
    return Rate(float(rate[1]), float(late[1]) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000}[late[2]])


@contextmanager
def beside_nginx(bench: Bench, connections: int) -> Iterator[Sides]:
    """Layers, beside nginx that serves the same bytes as files, or beside the registry that the user named."""
    workload = Workload(bench.scale)
    workload.push(bench.ours.url)
    if bench.named_peer is None:
        workload.write(bench.static)
        other = bench.nginx
    else:
        workload.push(bench.named_peer)
        other = bench.named_peer
    paths = workload.blobs()
    yield partial(load, bench, connections, paths, bench.ours.url), partial(load, bench, connections, paths, other)


@contextmanager
def beside_registry(bench: Bench, connections: int, kind: str) -> Iterator[Sides]:
    """Requests of a kind, beside another registry."""
    workload = Workload(bench.scale)
    urls = bench.ours.url, bench.named_peer or bench.peer_3.url
    for url in urls:
        workload.push(url)
    paths = workload.small() if kind == "small" else workload.mixed()
    yield partial(load, bench, connections, paths, urls[0]), partial(load, bench, connections, paths, urls[1])


def _blobs(connections: int) -> Row:
    work = f"GET layers of real sizes, {connections} connections (wrk)"
    return Row(
        f"blobs-{connections}", work, "nginx", "requests/s", partial(beside_nginx, connections=connections), 0.95
    )


ROWS = [
    _blobs(4),
    _blobs(32),
    Row(
        "mixed", "GET manifests, configurations and layers, 32 connections (wrk)", DISTRIBUTION_3, "requests/s",
        partial(beside_registry, connections=32, kind="mixed"), bound=2.2, late_bound=0.6,
    ),
    Row(
        "small", "GET manifests and configurations, 16 connections (wrk)", DISTRIBUTION_3, "requests/s",
        partial(beside_registry, connections=16, kind="small"), bound=4, late_limit_ms=15,
    ),
]  # fmt: skip


def main() -> None:
    """Print the sizes of the workload."""
    workload = Workload()
    sizes = sorted(map(len, workload.layers))
    below = [sum(size < limit for size in sizes) / len(sizes) for limit in (10**6, 10**7)]
    print(f"{len(sizes)} layers, {sum(sizes) / 10**6:.0f} MB; {below[0]:.0%} below 1 MB, {below[1]:.0%} below 10 MB")
    by_digest = {digest: len(content) for image in workload.images.values() for digest, content in image.blobs.items()}
    requested = [by_digest[os.path.basename(path)] for path in workload.blobs()]
    print(f"a requested layer has {sum(requested) / len(requested) / 10**6:.2f} MB on average")


if __name__ == "__main__":
    main()
