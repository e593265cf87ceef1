"""
How xdist distributes the tests: by file, like ``--dist loadfile``, with two differences.

Files that start the same expensive backend run in one process, which starts it once. Files with few long tests run
first, so that no process is left with one of them at the end.
"""

from __future__ import annotations

import importlib
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
from xdist.scheduler import LoadFileScheduling

_OPENSTACK: Final = "OpenStack"

#: Files that share a backend: Swift takes a quarter of a minute to start, and Glance longer.
_GROUPS: Final = dict.fromkeys(
    (
        "tests/drivers/cache/test_stores.py",
        "tests/drivers/s3/test_on_swift.py",
        "tests/drivers/test_glance.py",
        "tests/drivers/test_swift.py",
        "tests/interop/test_cloud_adoption.py",
        "tests/interop/test_openstack.py",
    ),
    _OPENSTACK,
)

#: Files that run first, the longest at the beginning.
_LONG: Final = (
    _OPENSTACK,
    "tests/registry/search/test_start.py",
    "tests/interop/test_store_faults.py",
    "tests/cli/test_backup.py",
    "tests/server/test_worker_limits.py",
    "tests/server/test_launch.py",
    "tests/load/test_layer_attacks.py",
    "tests/conformance/test_official_suite.py",
    "tests/drivers/cache/test_servers_with_cache.py",
    "tests/api/test_health.py",
    "tests/cli/test_diff_worker.py",
    "tests/interop/test_two_hosts.py",
    "tests/crash/test_sigkill.py",
    "tests/crash/test_v1_sigkill.py",
    "tests/load/test_memory.py",
    "tests/load/test_stored_content.py",
    "tests/load/test_many_clients.py",
    "tests/load/test_slow_clients.py",
    "tests/load/test_bench.py",
    "tests/interop/test_v1_client.py",
    "tests/interop/test_google_and_azure.py",
    "tests/interop/test_both_apis.py",
    "tests/interop/test_access_control.py",
    "tests/interop/test_s3_memory.py",
    "tests/interop/test_s3.py",
    "tests/cpu_pool/test_pool.py",
    "tests/server/test_handover.py",
    "tests/api/test_v1_trees.py",
    "tests/drivers/test_example.py",
    "tests/interop/test_v1_recordings.py",
    "tests/property/test_ranges.py",
    "tests/interop/test_s3_adoption.py",
    "tests/interop/test_doctor.py",
    "tests/interop/test_go_clients.py",
    "tests/resources/test_time_slices.py",
    "tests/docs/test_architecture.py",
    "tests/load/test_attacks.py",
    "tests/interop/test_podman_chunked.py",
    "tests/api/test_v2_machine.py",
    "tests/server/test_client_socket.py",
    "tests/test_concurrency_module.py",
    "tests/registry/test_event_loop.py",
    "tests/load/test_delete_beside_push.py",
    "tests/server/test_stored_bodies.py",
    "tests/api/test_read_only.py",
    "tests/metrics/test_metrics.py",
    "tests/interop/test_mirror.py",
    "tests/interop/test_distribution_drop_in.py",
)


class Scheduling(LoadFileScheduling):  # type: ignore[misc]
    """Distributes groups of files, those with long tests first, then those with many tests."""

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        return _GROUPS.get(file, file)

    def _assign_work_unit(self, node: Any) -> None:
        self.workqueue.move_to_end(min(self.workqueue, key=self._rank), last=False)
        super()._assign_work_unit(node)

    def _rank(self, scope: str) -> tuple[int, int]:
        return _LONG.index(scope) if scope in _LONG else len(_LONG), -len(self.workqueue[scope])


def import_part(root: Path, number: int, count: int) -> None:
    """
    Import the test files of one process, whose number is from 0, out of *count* processes.

    Python keeps the compiled files for the other processes. Rewriting the assertions of all files takes 20 s of CPU
    time, which otherwise each process would spend at the same time. An error is left to the collection, which imports
    the file again.
    """
    for path in sorted(root.glob("tests/**/test_*.py"))[number::count]:
        *packages, _ = parts = path.relative_to(root).with_suffix("").parts
        folders = [packages[: end + 1] for end in range(len(packages))]
        conftests = [[*folder, "conftest"] for folder in folders if root.joinpath(*folder, "conftest.py").exists()]
        for names in (*conftests, parts):
            with suppress(Exception, pytest.skip.Exception):
                importlib.import_module(".".join(names))
