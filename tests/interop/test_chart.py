"""The Helm chart: linted and rendered by the real helm, and its manifests compared with the schemas of Kubernetes."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from docker_registry import __version__
from docker_registry.config import distribution_keys
from docker_registry.config.flavors import read_flavor
from tests.support.clients.go_tools import install
from tests.support.servers.template import ROOT

CHART = ROOT / "contrib" / "chart"

#: The newest release of Kubernetes whose schemas the tests use, and the oldest that the chart names.
KUBERNETES = ("1.35", "1.25")

#: Values files as users of the chart for registry:2 have them.
VALUES = {
    "defaults": {},
    "everything": {
        "replicaCount": 3,
        "image": {"repository": "registry.example.org/docker-registry", "tag": "1.0", "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "pull"}],
        "serviceAccount": {"create": True, "annotations": {"a": "b"}},
        "service": {"type": "NodePort", "nodePort": 30500, "annotations": {"a": "b"}, "sessionAffinity": "ClientIP"},
        "ingress": {"enabled": True, "hosts": ["a.example", "b.example"], "tls": [{"secretName": "t", "hosts": ["a"]}]},
        "trustedProxies": ["10.0.0.0/8"],
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        "persistence": {"enabled": True, "storageClass": "-", "deleteEnabled": True},
        "tlsSecretName": "registry-tls",
        "secrets": {"htpasswd": "alice:$2y$05$x\n", "haSharedSecret": "x"},
        "podDisruptionBudget": {"minAvailable": 2},
        "autoscaling": {"enabled": True, "maxReplicas": 5},
        "metrics": {
            "enabled": True,
            "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "prometheusRule": {"enabled": True, "rules": [{"alert": "Down", "expr": "up == 0"}]},
        },
        "podAnnotations": {"a": "b"},
        "podLabels": {"a": "b"},
        "updateStrategy": {"type": "Recreate"},
        "priorityClassName": "high",
        "nodeSelector": {"a": "b"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
        ],
        "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/ca"}],
        "extraEnvVars": [{"name": "REGISTRY_IMMUTABLE_TAGS", "value": "v*"}],
        "initContainers": [{"name": "i", "image": "busybox"}],
    },
    "s3": {
        "storage": "s3",
        "s3": {"region": "eu-central-1", "bucket": "images", "regionEndpoint": "https://s3.example.org",
               "rootdirectory": "/x", "encrypt": False, "secure": True, "forcepathstyle": True},
        "secrets": {"s3": {"accessKey": "a", "secretKey": "b"}},
    },
    "s3-secret": {"storage": "s3", "s3": {"region": "r", "bucket": "b"}, "secrets": {"s3": {"secretRef": "mine"}}},
    "azure": {
        "storage": "azure", "secrets": {"azure": {"accountName": "n", "accountKey": "aw==", "container": "c"}},
    },
    "swift": {
        "storage": "swift", "swift": {"authurl": "https://k:5000/v3", "container": "c"},
        "secrets": {"swift": {"username": "u", "password": "p"}},
    },
    "proxy": {"proxy": {"enabled": True, "username": "u", "password": "p"}},
    "proxy-secret": {"proxy": {"enabled": True, "remoteurl": "https://quay.io", "secretRef": "mine"}},
    "own-configuration": {
        "configData": {"version": None, "storage": None, "http": None,
                       "local": {"storage": "file", "storage_path": "/var/lib/registry"}},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def helm(tmp_path_factory):
    return install("helm", tmp_path_factory.mktemp("helm"))


@pytest.fixture
def render(helm, tmp_path):
    """Render the chart with some values; the manifests by their kind."""

    def render(values):
        file = tmp_path / "values.json"
        file.write_text(json.dumps(values))
        helm("lint", "--strict", CHART, "--values", file)
        rendered = helm("template", "images", CHART, "--namespace", "registry", "--values", file)
        return {document["kind"]: document for document in yaml.safe_load_all(rendered) if document}

    return render


def container_of(manifests):
    (container,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    return container


def environment_of(manifests):
    """The variables of the container, with those from secrets by the name of their key."""
    return {
        entry["name"]: entry["value"] if "value" in entry else f"from {entry['valueFrom']['secretKeyRef']['key']}"
        for entry in container_of(manifests)["env"]
    }


@pytest.mark.slow
class TestTheChart:
    @pytest.mark.parametrize("name", VALUES)
    def test_is_valid_for_kubernetes_and_for_the_registry(self, name, render, tmp_path, caplog):
        kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
        manifests = render(VALUES[name])
        for kind, document in manifests.items():
            assert document["metadata"]["namespace"] == "registry"
            if kind in ("ServiceMonitor", "PrometheusRule"):  # not of Kubernetes itself
                continue
            for version in KUBERNETES:
                kubernetes_validate.validate(document, version, strict=True)

        # The restricted policy of Kubernetes ("Pod Security Standards").
        pod, container = manifests["Deployment"]["spec"]["template"]["spec"], container_of(manifests)
        assert pod["securityContext"]["runAsNonRoot"]
        assert 0 != pod["securityContext"]["runAsUser"]
        assert {"type": "RuntimeDefault"} == pod["securityContext"]["seccompProfile"]
        security = container["securityContext"]
        assert (False, False, True) == tuple(
            security[key] for key in ("allowPrivilegeEscalation", "privileged", "readOnlyRootFilesystem")
        )
        assert {"drop": ["ALL"]} == security["capabilities"]
        assert {"emptyDir", "configMap", "secret", "persistentVolumeClaim"} >= {
            key for volume in pod["volumes"] for key in volume if key != "name"
        }

        # A registry starts with this file and these variables.
        config = tmp_path / "config.yml"
        config.write_text(manifests["ConfigMap"]["data"]["config.yml"])
        variables = {name: value for name, value in environment_of(manifests).items() if name.startswith("REGISTRY_")}
        flavor = read_flavor({"DOCKER_REGISTRY_CONFIG": str(config), "SETTINGS_FLAVOR": "local", **variables})
        assert [] == caplog.messages  # such as keys that are ignored
        upstreams = {"proxy": "docker.io", "proxy-secret": "quay.io"}
        assert upstreams.get(name) == flavor.tree.get("mirroring", {}).get("default")
        assert flavor.tree["storage"] == {"s3": "s3", "s3-secret": "s3", "azure": "azureblob"}.get(
            name, "swift" if name == "swift" else "file"
        )

    def test_probes_drains_and_passes_values_on(self, render):
        manifests = render(VALUES["everything"])
        pod, container = manifests["Deployment"]["spec"]["template"]["spec"], container_of(manifests)
        probed = {name: container[f"{name}Probe"]["httpGet"] for name in ("liveness", "readiness", "startup")}
        assert {"liveness": "/livez", "readiness": "/readyz", "startup": "/startupz"} == {
            name: probe["path"] for name, probe in probed.items()
        }
        assert {"HTTPS"} == {probe["scheme"] for probe in probed.values()}
        environment = environment_of(manifests)
        assert ("5", "600") == (environment["REGISTRY_DRAIN_DELAY"], environment["GUNICORN_GRACEFUL_TIMEOUT"])
        assert 605 < pod["terminationGracePeriodSeconds"]
        assert "127.0.0.1,::1,unix,10.0.0.0/8" == environment["REGISTRY_TRUSTED_PROXIES"]
        assert "v*" == environment["REGISTRY_IMMUTABLE_TAGS"]
        kinds = "Deployment Service Ingress PersistentVolumeClaim PodDisruptionBudget ConfigMap Secret"
        kinds += " HorizontalPodAutoscaler ServiceAccount ServiceMonitor PrometheusRule"
        assert set(kinds.split()) == set(manifests)
        assert "replicas" not in manifests["Deployment"]["spec"]
        assert "" == manifests["PersistentVolumeClaim"]["spec"]["storageClassName"]
        (endpoint,) = manifests["ServiceMonitor"]["spec"]["endpoints"]
        assert endpoint["port"] in {port["name"] for port in manifests["Service"]["spec"]["ports"]}
        labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
        for kind in ("Service", "PodDisruptionBudget", "ServiceMonitor"):
            selector = manifests[kind]["spec"]["selector"]
            assert selector.get("matchLabels", selector).items() <= labels.items()

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ({"garbageCollect": {"enabled": True}}, "does not collect garbage"),
            ({"proxy": {"enabled": True, "username": "u"}}, "proxy.password is missing"),
            ({"storage": "s3"}, "s3.region is missing"),
            ({"service": {"port": 0}}, "service"),
            ({"configData": {"version": None}, "secrets": {"htpasswd": "x"}}, "auth.htpasswd"),
        ],
        ids=["garbage", "proxy", "s3", "port", "own"],
    )
    def test_refuses_values_that_it_cannot_honour(self, helm, tmp_path, values, said):
        file = tmp_path / "values.json"
        file.write_text(json.dumps(values))
        with pytest.raises(AssertionError, match=re.escape(said)):
            helm("template", "images", CHART, "--values", file)


class TestTheChartsFiles:
    def test_agree_with_the_registry(self):
        assert __version__ == yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
        values = yaml.safe_load((CHART / "values.yaml").read_text())
        schema = json.loads((CHART / "values.schema.json").read_text())
        assert set(values) == set(schema["properties"])
        # Each variable that a template sets overrides a key, or is one of this registry.
        text = "".join(path.read_text() for path in sorted((CHART / "templates").iterdir()))
        variables = set(re.findall(r"REGISTRY_(?:AUTH|HTTP|PROXY|STORAGE)\w*[A-Z]\b", text))
        names = {f"REGISTRY_{key.upper().replace('.', '_')}" for key in distribution_keys.KEYS}
        assert variables - {"REGISTRY_AUTH"} <= names
