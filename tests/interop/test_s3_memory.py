"""The memory of a worker for transfers to and from S3, and that it serves others meanwhile."""

from __future__ import annotations

import pytest

pytest.importorskip("boto3", reason="boto3 is not installed")

from tests.interop.test_s3 import environment
from tests.load.test_memory import Noise
from tests.support.clients import v2
from tests.support.processes import children, memory_bytes
from tests.support.servers.registry import Server
from tests.support.timing import Latency

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def server(seaweedfs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    # A forked process would begin with the memory of the one that it was forked from.
    with Server(folder / "store", new_interpreter=True, **environment(seaweedfs.options())) as server:
        yield server


class TestAWorker:
    @pytest.mark.parametrize(
        "size", [128 * MIB, pytest.param(5 * 1024 * MIB, marks=pytest.mark.slow)], ids=["128 MiB", "5 GiB"]
    )
    def test_stays_below_a_hundred_mebibytes(self, server, size, monkeypatch):
        monkeypatch.setattr(v2, "TIMEOUT_SECONDS", 900)  # the store copies all of it on one disk
        (pid,) = children(server.process.pid)
        with v2.Client(server.url) as pusher:
            digest = pusher.push_stream("lab/memory", Noise(size))
            assert size == pusher.pull_blob("lab/memory", digest)
        assert memory_bytes(pid, "VmHWM") < 100 * MIB, f"{memory_bytes(pid, 'VmHWM') / MIB:.1f} MiB"

    def test_serves_others_while_it_waits_for_the_store(self, server, tmp_path):
        with (
            Server(tmp_path / "idle") as idle,
            Latency(server.url, idle.url) as latency,
            v2.Client(server.url) as other,
        ):
            other.push_stream("lab/busy", Noise(96 * MIB))
        latency.assert_below(0.25)
