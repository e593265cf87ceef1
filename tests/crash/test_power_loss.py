"""
A power loss of the host loses nothing that the server has acknowledged.

The store is in a separate file system, in a file. When the server is killed, that file contains what a disk would
contain: everything that was synced, and those other writes that the kernel has made by then. A copy of it is mounted,
as after a crash, with another boot id.

ext4 without a journal is not tested: files that are not synced yet, such as temporary files that are created and
removed, may damage files that were synced long ago, whatever a program does.
"""

from __future__ import annotations

import random
import subprocess
import time
import uuid
from contextlib import suppress

import pytest

from docker_registry.drivers.file.sync import Disk
from tests.crash.pushers import Pusher
from tests.crash.test_sigkill import PUSHERS, check_blobs_of_store, check_life, check_manifests_of_store
from tests.support.clients.programs import require, require_root
from tests.support.clients.v2 import Client
from tests.support.servers.registry import COMMAND, Server

pytestmark = pytest.mark.slow

ROUNDS = 12
MAX_LIFE_SECONDS = 2.0
MIB = 1024 * 1024


#: The command that creates each file system, its Debian package, and the command that repairs it after a crash.
FILE_SYSTEMS = {
    "ext4": (("mkfs.ext4", "e2fsprogs"), ("e2fsck", "-fy")),
    "xfs": (("mkfs.xfs", "xfsprogs"), ()),
    "btrfs": (("mkfs.btrfs", "btrfs-progs"), ()),
}


class Machine:
    """A host with a disk, which is mounted at another path after each crash."""

    def __init__(self, folder, kind):
        self._folder = folder
        self._kind = kind
        make, self._check = FILE_SYSTEMS[kind]
        self._number = 0
        self._disk = folder / "disk0"
        self._mounted = None
        with self._disk.open("wb") as file:
            file.truncate(1024 * MIB)
        run(require(*make), "-q", self._disk)

    def start(self):
        """Mount the disk, and return the server whose store is on it."""
        if self._check:
            run(*self._check, self._disk, codes=(0, 1))
        self._mounted = self._folder / f"mounted{self._number}"
        self._mounted.mkdir()
        run("mount", "-t", self._kind, "-o", "loop", self._disk, self._mounted)
        boot = self._folder / f"boot{self._number}"
        boot.write_text(f"{uuid.uuid4()}\n")
        rename = f'mount --bind {boot} /proc/sys/kernel/random/boot_id && exec "$@"'
        command = ("unshare", "--mount", "sh", "-c", rename, "sh", *COMMAND)
        index = f"sqlite:///{self._folder}/search.db"
        return Server(self._mounted / "store", workers=2, command=command, SQLALCHEMY_INDEX_DATABASE=index)

    def lose_power(self):
        """Drop everything that is not on the disk; the server has been killed."""
        self._number += 1
        disk = self._folder / f"disk{self._number}"
        # Quickly, because the kernel continues to write meanwhile.
        run("cp", "--sparse=auto", self._disk, disk)
        self.stop()
        self._disk.unlink()
        self._disk = disk

    def stop(self):
        """Leave nothing mounted."""
        if self._mounted is not None:
            for _ in range(100):  # the workers of a server that was killed may take a moment
                if subprocess.run(["umount", self._mounted], capture_output=True, check=False).returncode == 0:
                    break
                time.sleep(0.05)
            self._mounted = None


def run(*command, codes=(0,)):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in codes, f"{command}: {done.stdout} {done.stderr}"


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_a_power_loss_keeps_acknowledged_content(tmp_path, kind, seed):
    require_root()
    moments = random.Random(seed)
    machine = Machine(tmp_path, kind)
    tagged = dict.fromkeys(f"crash/pusher{number}" for number in range(PUSHERS))
    promised = 0
    server = machine.start()
    try:
        server.start()
        assert Disk(str(server.store)).syncs_whole, "there is no journal that could be put again"
        for number in range(ROUNDS):
            pushers = [Pusher(server.url, name, f"{seed} {number}", tagged[name]) for name in tagged]
            for pusher in pushers:
                pusher.start()
            time.sleep(moments.uniform(0.01, MAX_LIFE_SECONDS))
            server.kill()
            machine.lose_power()
            for pusher in pushers:
                pusher.join()
            server = machine.start()
            server.start()
            with Client(server.url) as client:
                for pusher in pushers:
                    assert pusher.failure is None, f"round {number}: {pusher.failure!r}"
                    pusher.promises.session = None  # received bytes of an upload may be lost with the host
                    promised += pusher.promises.count
                    tagged[pusher.name] = check_life(client, pusher)
                check_blobs_of_store(server.store)
                check_manifests_of_store(server.store, client)
    finally:
        with suppress(ProcessLookupError):
            server.kill()
        machine.stop()
    print(f"{ROUNDS} crashes, {promised} promises kept")
    assert promised > ROUNDS
