"""The metrics count what clients did, in all workers, also in those that ended."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
import yaml
from prometheus_client import parser
from prometheus_client.openmetrics import parser as strict_parser

from docker_registry import services
from docker_registry.config.schema import Config
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import ConfigError
from docker_registry.http.exchange import Exchange
from docker_registry.metrics.busiest import MAX_COUNTED, RepositoryCounts
from docker_registry.metrics.numbers import Numbers
from docker_registry.metrics.recorder import Recorder, Series
from docker_registry.metrics.shared import SharedNumbers, make_folder
from tests.support.gevent_program import under_gevent
from tests.support.processes import free_port
from tests.support.servers.registry import Server
from tests.support.timing import wait_until

ROOT = Path(__file__).parent.parent.parent
MANIFEST = b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}'
TYPE = {"Content-Type": "application/vnd.oci.image.index.v1+json"}
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


def scrape(url, headers=None):
    """Return the values of all samples, by name and labels, and the types of all families."""
    answer = requests.get(f"{url}/metrics", headers=headers, timeout=20)
    assert 200 == answer.status_code
    parse = (strict_parser if headers else parser).text_string_to_metric_families
    families = list(parse(answer.text))
    samples = {(row.name, *sorted(row.labels.items())): row.value for family in families for row in family.samples}
    return samples, {family.name: family.type for family in families}


def requests_by(samples):
    """Return the number of requests by handler, method and code, without those of the test's own start and scrapes."""
    found = Counter()
    for (name, *labels), value in samples.items():
        row = dict(labels)
        if name == "registry_http_requests_total" and row["handler"] not in ("other", "base"):
            found[row["handler"], row["method"], row["code"]] += int(value)
    return found


def published_requests(folder):
    """Return the same from what the workers have published."""
    found = Counter()
    for (handler, method, code), row in SharedNumbers(folder).total(Numbers())[0].series.items():
        if handler not in ("other", "base"):
            found[handler, method, code] += row.requests
    return found


def repositories_in(samples):
    """Return the pulls and pushes by repository."""
    return {(name, labels[0][1]): value for (name, *labels), value in samples.items() if "_repository_" in name}


class TestFourWorkers:
    def test_count_what_clients_did_also_after_they_ended(self, tmp_path):
        with Server(tmp_path / "store", workers=4, REGISTRY_METRICS="true") as server:
            url, done = f"{server.url}/v2/acme/web", Counter()

            def act(turns):
                for turn in range(turns):
                    put = requests.put(f"{url}/manifests/v{turn}", data=MANIFEST, headers=TYPE, timeout=20)
                    done["manifest", "put", str(put.status_code)] += 1
                    for _ in range(3):
                        get = requests.get(f"{url}/manifests/v{turn}", timeout=20)
                        done["manifest", "get", str(get.status_code)] += 1
                    done[
                        "blob", "head", str(requests.head(f"{url}/blobs/sha256:{'0' * 64}", timeout=20).status_code)
                    ] += 1
                    done["tags", "get", str(requests.get(f"{url}/tags/list", timeout=20).status_code)] += 1
                    start = requests.post(f"{url}/blobs/uploads/", timeout=20)
                    done["blob_upload", "post", str(start.status_code)] += 1
                    get = requests.get(server.url + start.headers["Location"], timeout=20)
                    done["blob_upload_chunk", "get", str(get.status_code)] += 1

            wait_until(lambda: "abandoned uploads" in server.log.read_text())  # counts the open uploads
            act(10)
            requests.request("BREW", f"{server.url}/v2/", timeout=20)
            folder = next(Path("/dev/shm").glob(f"docker-registry-metrics-{server.process.pid}-*"))
            wait_until(lambda: done == published_requests(folder))
            samples, types = scrape(server.url)
            assert done == requests_by(samples)
            before = set(server.worker_pids())
            os.kill(server.worker_pids()[0], signal.SIGKILL)
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: before.isdisjoint(server.worker_pids()))
            act(3)
            wait_until(lambda: 4 == scrape(server.url)[0]["registry_workers",] and done == published_requests(folder))
            samples, _ = scrape(server.url, OPENMETRICS)
            assert done == requests_by(samples)
            assert samples["registry_received_bytes_total",] == 13 * len(MANIFEST)
            assert "method" not in {name for key in samples for name, value in key[1:] if value == "brew"}
            duration = ("registry_http_request_duration_seconds_count", ("handler", "manifest"), ("method", "get"))
            assert samples[duration] == 39
            self.check_the_parts(samples)
            text = (ROOT / "contrib/prometheus/alerts.yml").read_text()
            text += (ROOT / "contrib/prometheus/dashboard.json").read_text()
            used = set(re.findall(r"\bregistry_\w+", text))
            assert set() == used - {key[0] for key in samples} - {f"{name}_total" for name in types}
            assert {"counter", "gauge", "histogram"} <= set(types.values())
        assert not folder.exists()

    def check_the_parts(self, samples):
        action = (("action", "Batch"), ("driver", "filesystem"))
        assert samples[("registry_storage_action_seconds_count", *action)] >= 13
        assert samples[("registry_storage_action_seconds_sum", *action)] > 0
        assert 13 == samples["registry_open_uploads",] == samples["registry_uploads_started_total",]
        assert 0 == samples["registry_uploads_ended_total",] == samples["registry_storage_cache_hits_total",]
        assert 1 <= samples["registry_search_updates_total",]
        assert 1 <= samples["registry_leases_total", ("result", "taken"), ("work", "housekeeping")]
        assert 4 * 2000 == samples["registry_connections_limit",]
        assert 1 <= samples["registry_http_in_flight_requests",]  # this one
        budgets = {dict(key[1:])["budget"] for key in samples if key[0] == "registry_budget_waits_total"}
        assert {"body_memory", "json", "unsent_responses"} == budgets
        documented = (ROOT / "docs/operations.md").read_text()
        names = {re.sub("_(bucket|count|sum|created)$", "", key[0]) for key in samples}
        assert set() == {name for name in names if f"`{name}`" not in documented}


class TestASeparateAddress:
    def test_has_the_metrics_alone(self, tmp_path):
        port = free_port()
        settings = {"REGISTRY_METRICS_ADDRESS": f"127.0.0.1:{port}", "REGISTRY_METRICS_BY_REPOSITORY": "true"}
        with Server(tmp_path / "store", workers=2, **settings) as server:
            url = f"{server.url}/v2/acme/web/manifests/v1"
            requests.put(url, data=MANIFEST, headers=TYPE, timeout=20)
            for _ in range(3):
                requests.get(url, timeout=20)
            requests.head(url, timeout=20)
            requests.get(f"{server.url}/v2/acme/none/manifests/v1", timeout=20)
            counted = [f"registry_repository_{what}_total" for what in ("pulls", "pushes")]
            wanted = {(counted[0], "acme/web"): 3, (counted[1], "acme/web"): 1}
            address = f"http://127.0.0.1:{port}"
            wait_until(lambda: wanted == repositories_in(scrape(address)[0]))
            assert 404 == requests.get(f"{address}/v2/", timeout=20).status_code
            head = requests.head(f"{address}/metrics", timeout=20, stream=True)
            assert (200, b"") == (head.status_code, head.raw._fp.fp.read())
            odd = requests.get(f"{address}/metrics", headers={"Accept": "text/plain; version=a.b"}, timeout=20)
            assert (200, True) == (odd.status_code, odd.headers["Content-Type"].startswith("text/plain"))
            assert 404 == requests.get(f"{server.url}/metrics", timeout=20).status_code

    def test_takes_few_of_the_files_of_a_worker(self, tmp_path):
        port = free_port()
        with (
            Server(tmp_path / "store", workers=1, REGISTRY_METRICS_ADDRESS=f"127.0.0.1:{port}") as server,
            ExitStack() as connections,
        ):
            (worker,) = server.worker_pids()
            before = len(os.listdir(f"/proc/{worker}/fd"))
            for _ in range(120):
                connections.enter_context(socket.create_connection(("127.0.0.1", port), 20))
            assert 200 == requests.get(f"{server.url}/v2/", timeout=20).status_code
            assert len(os.listdir(f"/proc/{worker}/fd")) < before + 80
            connections.close()
            assert 200 == requests.get(f"http://127.0.0.1:{port}/metrics", timeout=20).status_code

    @pytest.mark.parametrize("address", ["here", "127.0.0.1:0", "127.0.0.1:70000", "192.0.2.1:9090", "a..b:9090"])
    def test_must_be_one_of_this_host(self, address):
        with pytest.raises(ConfigError, match="metrics_address"):
            services.build(Config(storage="memory", metrics_address=address), MemoryDriver())


SCRAPES = """
import fcntl, sys
from pathlib import Path
from docker_registry.concurrency import run_in_thread
from docker_registry.metrics.server_metrics import ServerMetrics

metrics, lock = ServerMetrics(Path(sys.argv[1]), lambda _: None), open(f"{sys.argv[1]}/lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
scrapes = [gevent.spawn(metrics.scrape, "") for _ in range(20)]
gevent.sleep(0.05)
other = gevent.spawn(run_in_thread, int)
other.join(5)
print(other.ready())
lock.close()
print(sum(b"registry_workers 1.0" in each.get()[0] for each in scrapes))
"""


class TestManyScrapes:
    def test_leave_native_threads_to_the_store(self, tmp_path):
        assert ["True", "20"] == under_gevent(SCRAPES, str(tmp_path))


class TestTheFilesOfWorkers:
    def test_are_merged_once_the_workers_ended(self, tmp_path):
        shared = SharedNumbers(tmp_path)
        program = (
            "import sys; from docker_registry.metrics.shared import *; from docker_registry.metrics.numbers import *;"
            "SharedNumbers(Path(sys.argv[1])).publish(Numbers({('manifest', 'get', '200'): Series(requests=3)}, "
            "{('filesystem', 'Stat'): (0.5, [1, 2])}, {('a',): 4}, {('in_flight',): 9}, {'open': (7, 1)}, "
            "{'acme/web': (1, 0)}))"
        )
        for _ in range(2):
            subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, cwd=ROOT)
        own = Numbers(
            {("manifest", "get", "200"): Series(requests=2, seconds=0.5)},
            {("filesystem", "Stat"): (1.0, [0, 1])},
            {("a",): 1},
            {("in_flight",): 1},
            {"open": (8, 3)},
            {"acme/web": (3, 1)},
        )
        shared.publish(own)
        for _ in range(2):
            total, workers = shared.total(own)
            assert 8 == total.series["manifest", "get", "200"].requests
            assert {("filesystem", "Stat"): (2.0, [2, 5])} == total.actions
            assert ({("a",): 9}, {("in_flight",): 1}, {"open": (8, 3)}) == (total.counters, total.gauges, total.latest)
            assert ({"acme/web": (5, 1)}, 1) == (total.repositories, workers)
        assert {"ended", str(os.getpid()), "lock"} == {path.name for path in tmp_path.iterdir()}

    def test_are_counted_also_on_a_full_disk(self, tmp_path):
        program = (
            "import resource, sys; from docker_registry.metrics.shared import *;"
            "shared = SharedNumbers(Path(sys.argv[1])); own = Numbers({}, {}, {('a',): 4}, {('in_flight',): 9});"
            "shared.publish(own) if sys.argv[2] else resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0));"
            "total, workers = shared.total(Numbers());"
            "print(total.counters.get(('a',)), total.gauges, workers)"
        )
        for first, expected in (("first", "None {} 1\n"), ("", "4 {} 1\n")):
            command = [sys.executable, "-c", program, str(tmp_path), first]
            assert expected == subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout


class TestTheFolder:
    def test_of_a_server_in_another_container_stays(self):
        """Containers may share /dev/shm, and do not see the processes of each other."""
        namespace = os.stat("/proc/self/ns/pid").st_ino
        none = 2**22 + 1  # more than the highest process id
        here, there = (
            Path(f"/dev/shm/docker-registry-metrics-{none}-{space}-{os.getpid()}") for space in (namespace, 1)
        )
        try:
            here.mkdir()
            there.mkdir()
            make_folder(os.getuid(), os.getgid()).rmdir()
            assert (False, True) == (here.exists(), there.exists())
        finally:
            there.rmdir()


class TestTheCountsByRepository:
    def exchange(self, name, **values):
        fields = {"route": "v2_manifests.get_manifest", "method": "GET", "status": 200, "repository": name, **values}
        return Exchange(**{name: fields.get(name, 0) for name in Exchange._fields})

    def test_keep_the_busiest(self):
        counts = RepositoryCounts()
        for _ in range(2):
            counts(self.exchange("acme/busy"))
        for number in range(MAX_COUNTED + 10):
            counts(self.exchange(f"acme/n{number}"))
        counts(self.exchange("acme/busy", route="v2_manifests.put_manifest", method="PUT", status=201))
        found = counts.snapshot()
        assert (2, 1) == found["acme/busy"]
        assert MAX_COUNTED // 2 <= len(found) <= MAX_COUNTED

    def test_use_the_names_of_api_v2(self):
        counts = RepositoryCounts()
        counts(self.exchange("web", route="v1_repositories.list_images"))
        counts(self.exchange("library/web"))
        counts(self.exchange("web", status=404))
        assert {"library/web": (2, 0)} == counts.snapshot()

    def test_need_an_address_of_their_own(self):
        config = Config(storage="memory", metrics=True, metrics_by_repository=True)
        with pytest.raises(ConfigError, match="metrics_by_repository needs metrics_address"):
            services.build(config, MemoryDriver())


class TestTheRecorder:
    def test_is_not_filled_by_words_of_clients(self):
        recorder = Recorder()
        for number in range(1000):
            values = {"method": f"M{number}", "route": "", "status": 405, "seconds": 0.1}
            fields = {name: values.get(name, 0) for name in Exchange._fields}
            recorder(Exchange(**fields))
        assert [("other", "other", "405")] == list(recorder.series)
        assert 1000 == recorder.series["other", "other", "405"].requests


class TestTheSamples:
    def test_are_valid(self):
        rules = yaml.safe_load((ROOT / "contrib/prometheus/alerts.yml").read_text())["groups"][0]["rules"]
        assert all({"alert", "expr", "labels", "annotations"} <= set(rule) for rule in rules)
        panels = json.loads((ROOT / "contrib/prometheus/dashboard.json").read_text())["panels"]
        assert len(panels) == len({panel["id"] for panel in panels})
