"""Configuration files of the CNCF distribution registry, translated."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from pathlib import Path

import pytest

from docker_registry.config import distribution
from docker_registry.config.distribution_keys import KEYS, table
from docker_registry.config.flavors import read_flavor, server_variables
from docker_registry.config.schema import load_config
from docker_registry.errors import ConfigError
from tests.support import processes
from tests.support.clients import programs
from tests.support.servers.distribution import VERSION_3

MINIMAL = "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: /srv/registry\n"

#: The file inside the image registry:2.
IMAGE = """
version: 0.1
log:
  fields:
    service: registry
storage:
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: /var/lib/registry
http:
  addr: :5000
  headers:
    X-Content-Type-Options: [nosniff]
health:
  storagedriver:
    enabled: true
    interval: 10s
    threshold: 3
"""


def complete_example(version, folder):
    """The keys of the complete example in distribution's reference, without sections."""
    if version == "3":
        module = f"github.com/distribution/distribution/v3@v{VERSION_3}"
        go = processes.find("go") or programs.missing("Go is not installed")
        found = subprocess.run([go, "mod", "download", "-json", module], capture_output=True, check=True, cwd=folder)
        text = Path(json.loads(found.stdout)["Dir"], "docs/content/about/configuration.md").read_text()
    else:
        page = Path("/usr/share/doc/docker-registry/configuration.md.gz")
        if not page.exists():  # an image may leave out documentation
            pytest.skip("the documentation of Debian's docker-registry is not installed")
        text = gzip.decompress(page.read_bytes()).decode()
    example = re.search(r"## List of configuration options.*?```\w+\n(.*?)\n```", text, re.DOTALL)[1]
    sections, names = [], []
    for line in example.splitlines():
        # No parser: the example repeats a key, and has comments in place of values.
        found = re.match(r"( *)((?:- )?)([\w-]+):(?: |$)", line)
        if found:
            indentation = len(found[1]) + len(found[2])
            sections = [each for each in sections if each[0] < indentation] + [(indentation, found[3])]
            names.append(".".join(name for _, name in sections))
    return [name for name in names if not any(other.startswith(f"{name}.") for other in names)]


def ancestry(name):
    """A key and the sections around it."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]


@pytest.fixture
def load(tmp_path):
    """Load a file of distribution as the server does."""

    def load(text, **environment):
        path = tmp_path / "config.yml"
        path.write_text(text)
        return load_config({"DOCKER_REGISTRY_CONFIG": str(path), **environment})

    return load


@pytest.fixture
def variables(tmp_path):
    """The variables of the server that a file sets."""

    def variables(text, **environment):
        path = tmp_path / "config.yml"
        path.write_text(text)
        return server_variables({"DOCKER_REGISTRY_CONFIG": str(path), **environment})

    return variables


class TestAFile:
    def test_has_the_defaults_of_distribution(self, load):
        config = load(IMAGE)
        assert ("distribution", "file") == (config.flavor, config.storage)
        assert "/var/lib/registry" == config.driver_options["storage_path"]
        assert not any((config.delete_tags, config.delete_manifests, config.delete_blobs, config.storage_redirect))
        assert (604800, 86400) == (config.upload_ttl, config.upload_purge_interval)

    def test_sets_users_tls_and_deletion(self, load):
        config = load(
            MINIMAL
            + "  delete: {enabled: true}\n  maintenance: {uploadpurging: {enabled: true, age: 1h30m, interval: 90s}}\n"
            "auth: {htpasswd: {realm: x, path: /etc/users}}\nlog: {level: warn, formatter: logstash}\n"
            "http: {host: 'https://r.example', tls: {certificate: /c.pem, key: /k.pem, clientcas: [/ca.pem],"
            " clientauth: verify-client-cert-if-given, minimumtls: tls1.3},"
            " headers: {Access-Control-Allow-Origin: ['https://ui.example'], Access-Control-Allow-Credentials: [true]},"
            " debug: {addr: ':5001', prometheus: {enabled: true}}}\n"
            "validation: {manifests: {indexes: {platforms: all}}}\ncatalog: {maxentries: 50}\n"
        )
        assert (True, 5400, 90) == (config.delete_blobs, config.upload_ttl, config.upload_purge_interval)
        assert ("/etc/users", "basic") == (str(config.auth.htpasswd), config.auth.challenge)
        assert ("/c.pem", "/k.pem", "/ca.pem") == tuple(
            str(path) for path in (config.tls.certificate, config.tls.key, config.tls.client_ca)
        )
        assert ("1.3", "optional") == (config.tls.minimum_version, config.tls.client_certificates)
        assert ("warn", "json", "https://r.example") == (config.loglevel, config.log_format, config.external_url)
        assert (("https://ui.example",), True) == (config.cors.origins, config.cors.supports_credentials)
        assert ("0.0.0.0:5001", True, 50) == (
            config.metrics_address, config.check_index_children, config.max_page_entries,
        )  # fmt: skip

    def test_sets_a_bucket_and_its_cache(self, load):
        config = load(
            "version: 0.1\nstorage:\n  s3: {bucket: b, region: eu-west-1, accesskey: k, secretkey: s,"
            " rootdirectory: /pre/fix, regionendpoint: 'https://s3.example', forcepathstyle: true}\n"
            "  cache: {blobdescriptor: redis}\nredis: {addrs: ['cache.example:6380'], password: p, db: 2}\n"
        )
        names = ("s3_bucket", "s3_region", "storage_path", "s3_encrypt", "s3_path_style")
        options = {each.name: config.driver_options[each.keyword] for each in config.driver_settings}
        assert ["b", "eu-west-1", "/pre/fix", False, True] == [options[name] for name in names]
        assert ("cache.example", 6380, "p", 2) == (
            config.cache_lru.host, config.cache_lru.port, config.cache_lru.password, config.cache_lru.db,
        )  # fmt: skip
        assert config.storage_redirect

    def test_sets_an_upstream_that_is_mirrored_as_a_whole(self, load):
        def mirroring(proxy, **variables):
            config = load(f"{MINIMAL}proxy: {{{proxy}}}\n", **variables)
            (upstream,) = config.mirroring.upstreams
            assert (False, upstream.name, 0) == (config.v1, config.mirroring.default, upstream.ttl)
            return upstream, config.mirroring.max_age

        upstream, age = mirroring("remoteurl: 'https://registry-1.docker.io/', username: u, password: '0123', ttl: 24h")
        assert ("docker.io", "https://registry-1.docker.io", "u", "0123") == (
            upstream.name, upstream.url, upstream.username, upstream.password,
        )  # fmt: skip
        assert 86400 == age
        for never in ("0", "0s", "0h", "0m0.0s"):
            upstream, age = mirroring(f"remoteurl: 'http://10.0.0.1:5000', ttl: {never}")
            assert ("10.0.0.1-5000", None, None) == (upstream.name, upstream.username, age), never
        upstream, age = mirroring("exec: {command: helper, lifetime: 1h}", REGISTRY_PROXY_REMOTEURL="https://[::1]")
        assert ("1", "helper", 7 * 86400) == (upstream.name, upstream.command, age)
        assert 36500 * 86400 == mirroring("remoteurl: 'http://10.0.0.1:5000', ttl: 2562047h")[1]  # the longest of Go
        assert () == load(f"{MINIMAL}proxy: {{ttl: 1h}}\n").mirroring.upstreams

    def test_sets_a_sentinel_and_a_swift_domain(self, load):
        config = load(
            "version: 0.1\nstorage:\n  swift: {authurl: 'https://k/v3', container: c, domain: d, chunksize: 5242880}\n"
            "  cache: {blobdescriptor: redis}\ntags: {maxtags: 70}\ncatalog: {maxentries: 9}\n"
            "redis: {addrs: ['a:1', 'b:2'], mastername: m, sentinelpassword: p, tls: {rootcas: [/ca.pem]}}\n"
        )
        options = {each.name: config.driver_options[each.keyword] for each in config.driver_settings}
        names = ("swift_user_domain", "swift_project_domain", "swift_segment_bytes")
        assert ["d", "d", 5242880] == [options[name] for name in names]
        cache = config.cache_lru
        assert (("a:1", "b:2"), "m", "p", True, "/ca.pem", 70) == (
            cache.sentinels, cache.sentinel_service, cache.sentinel_password, cache.tls, str(cache.tls_ca),
            config.max_page_entries,
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("http", "expected"),
        [
            ("{host: 'https://r.example', prefix: /my/registry/}", "https://r.example/my/registry"),
            ("{prefix: /registry/}", "/registry"),
            ("{prefix: /}", None),
        ],
    )
    def test_sets_the_path_of_the_registry(self, load, http, expected):
        assert expected == load(f"{MINIMAL}http: {http}\n").external_url

    def test_sets_an_external_token_server(self, load):
        token = "{realm: 'https://auth.example/token', service: s, issuer: i, rootcertbundle: /b.pem}"
        config = load(f"{MINIMAL}auth: {{token: {token}}}\n")
        assert ("https://auth.example/token", "s", "i", "/b.pem") == (
            config.auth.token.realm, config.auth.token.service, config.auth.token.issuer,
            str(config.auth.token.rootcertbundle),
        )  # fmt: skip

    def test_sets_variables_of_the_server(self, variables):
        text = MINIMAL + "http: {addr: '127.0.0.1:5005', draintimeout: 60s}\nlog: {accesslog: {disabled: true}}\n"
        assert {
            "REGISTRY_HOST": "127.0.0.1",
            "REGISTRY_PORT": "5005",
            "GUNICORN_GRACEFUL_TIMEOUT": "60",
            "GUNICORN_ACCESS_LOG_FILE": "none",
        } == variables(text)
        assert "1" == variables(text.replace("60s", "0"))["GUNICORN_GRACEFUL_TIMEOUT"]
        assert "REGISTRY_PORT" not in variables(text, REGISTRY_PORT="6000")
        assert "5005" == variables(text, REGISTRY_PORT="tcp://10.0.0.1:5000")["REGISTRY_PORT"]

    def test_without_upload_purging_keeps_uploads(self, load):
        text = f"{MINIMAL}  maintenance: {{uploadpurging: {{enabled: false}}}}\n"
        assert load(text).upload_ttl > 50 * 365 * 86400

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("  maintenance: {readonly: {enabled: true}}", "readonly.enabled cannot be honoured. Use `docker-registry"),
            ("auth: {silly: {realm: x, service: y}}", "auth.silly"),
            ("auth: {ldap: {url: x}}", "auth.ldap.url is unknown, and dangerous to ignore"),
            ("auth: htpasswd", "auth must be a section"),
            ("auth: {htpasswd: {realm: x}}", "auth.htpasswd.path is missing"),
            ("auth: {token: {service: x}}", "auth.token.realm is missing"),
            ("auth: {token: {realm: x, autoredirect: true}}", "auth.token.autoredirect cannot be honoured"),
            ("http: {tls: {letsencrypt: {email: x}}}", "http.tls.letsencrypt cannot be honoured"),
            ("http: {tls: {clientcas: [a, b]}}", "http.tls.clientcas cannot be honoured with several files"),
            (
                "http: {tls: {clientauth: request-client-cert, clientcas: [a]}}",
                "http.tls.clientauth cannot be honoured",
            ),
            ("http: {tls: {clientauth: [a], clientcas: [a]}}", "http.tls.clientauth cannot be honoured"),
            ("http: {tls: {ciphersuites: [a]}}", "http.tls.ciphersuites cannot be honoured"),
            ("http: {tls: {clientca: a}}", "http.tls.clientca is unknown, and dangerous"),
            (
                "  cache: {blobdescriptor: redis}\nredis: {addrs: [a:1], tls: {rootcas: [a, b]}}",
                "redis.tls.rootcas cannot be honoured with several files",
            ),
            ("http: {tls: {clientcas: {a: b}}}", "http.tls.clientcas must be a list of texts"),
            ("http: {headers: {Access-Control-Allow-Origin: [[x]]}}", "Access-Control-Allow-Origin must be a list of"),
            (
                "middleware: {storage: [{name: cloudfront, options: [a]}]}",
                "middleware.storage.options must be a section",
            ),
            ("http: {addr: localhost}", "http.addr must be an address with a port"),
            ("proxy: {remotenamespace: x}", "proxy.remotenamespace cannot be honoured"),
            ("proxy: {remoteurl: 'https://h:port'}", "proxy.remoteurl must be http://HOST or https://HOST"),
            ("proxy: {remoteurl: registry-1.docker.io}", "proxy.remoteurl must be http://HOST or https://HOST"),
            ("proxy: {remoteurl: 'localhost:5000'}", "proxy.remoteurl must be http://HOST or https://HOST"),
            ("proxy: {remoteurl: 'https:///v2/'}", "proxy.remoteurl must be http://HOST or https://HOST"),
            ("proxy: {remoteurl: 'https://h', ttl: week}", "proxy.ttl must be a duration"),
            ("proxy: {remoteurl: 'https://h', remoteur: x}", "proxy.remoteur is unknown, and dangerous"),
            ("middleware: {registry: [{name: x}]}", "middleware.registry cannot be honoured"),
            ("middleware: {storage: [{name: redirect}]}", "middleware.storage cannot be honoured"),
            ("  inmemory: {}", "storage must have exactly one driver, not filesystem, inmemory"),
            ("  maintenance: {uploadpurging: {age: week}}", "uploadpurging.age must be a duration"),
            (f"  maintenance: {{uploadpurging: {{age: {'9' * 400}h}}}}", "uploadpurging.age must be a duration"),
        ],
    )
    def test_that_cannot_be_honoured_prevents_the_start(self, load, text, message):
        with pytest.raises(ConfigError, match=re.escape(message)):
            load(f"{MINIMAL}{text}\n")

    def test_may_have_one_text_or_nothing_where_a_list_is_expected(self, load):
        redis = "  cache: {blobdescriptor: redis}\nredis: {addrs: 'a:1', tls: {rootcas: /ca.pem}}"
        headers = "http: {headers: {Access-Control-Max-Age: [], Access-Control-Allow-Origin: }}"
        config = load(f"{MINIMAL}{redis}\n{headers}\n")
        assert ("a", "/ca.pem", ()) == (config.cache_lru.host, str(config.cache_lru.tls_ca), config.cors.origins)
        one = f"{MINIMAL}http: {{tls: {{certificate: c, clientcas: /ca.pem}}}}\n"
        assert "/other.pem" == str(load(one, REGISTRY_HTTP_TLS_CLIENTCAS_0="/other.pem").tls.client_ca)

    def test_of_another_version_prevents_the_start(self, load):
        with pytest.raises(ConfigError, match=r"version 0\.2 is unknown"):
            load("version: 0.2\n")

    def test_with_a_driver_outside_of_storage_is_warned_about(self, load, caplog):
        load(f"{MINIMAL}s3: {{}}\ngcs: x\n")
        assert "gcs (unknown)" in caplog.text

    def test_with_keys_without_effect_is_logged_once(self, load, caplog):
        load(f"{MINIMAL}notifications: {{endpoints: [{{url: x}}]}}\nhttpp: {{addr: x}}\n", REGISTRY_STORGE="x")
        (message,) = caplog.messages
        assert "notifications (No notification is sent" in message
        assert "httpp.addr (unknown)" in message
        assert "REGISTRY_STORGE (an unknown variable)" in message


class TestAVariable:
    def test_overrides_a_key(self, load):
        config = load(
            MINIMAL,
            REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY="/elsewhere",
            REGISTRY_STORAGE_DELETE_ENABLED="true",
            REGISTRY_HTTP_TLS_CERTIFICATE="/c.pem",
            REGISTRY_HTTP_TLS_CLIENTCAS_0="/ca.pem",
        )
        assert ("/elsewhere", True) == (config.driver_options["storage_path"], config.delete_tags)
        assert ("/c.pem", "/ca.pem") == (str(config.tls.certificate), str(config.tls.client_ca))

    def test_names_a_section(self, load):
        config = load(
            MINIMAL, REGISTRY_AUTH="htpasswd", REGISTRY_AUTH_HTPASSWD_REALM="x", REGISTRY_AUTH_HTPASSWD_PATH="/users"
        )
        assert "/users" == str(config.auth.htpasswd)
        assert "memory" == load(MINIMAL, REGISTRY_STORAGE="inmemory").storage

    def test_of_this_registry_keeps_its_meaning(self, load):
        config = load(
            MINIMAL,
            REGISTRY_DRAIN_DELAY="5",
            REGISTRY_AUTH_HTPASSWD="/own",
            REGISTRY_HOST="::1",
            REGISTRY_V1_PLATFORM="",
        )
        assert (5, "/own") == (config.drain_delay, str(config.auth.htpasswd))

    @pytest.mark.parametrize(
        ("variable", "value"),
        [
            ("REGISTRY_PROXY_REMOTE", "https://registry-1.docker.io"),
            ("REGISTRY_STORAGE_MAINTENANCE_READONLY", '{"enabled": true}'),
            ("REGISTRY_STORAGE_MAINTENANCE_READONLY_ENABLED", "true"),
            ("REGISTRY_AUTH_KERBEROS_REALM", "x"),
            ("REGISTRY_HTTP_TLS_CLIENTCA", "/ca.pem"),
            ("REGISTRY_AUTH", "{"),
        ],
    )
    def test_that_is_dangerous_to_ignore_prevents_the_start(self, load, variable, value):
        with pytest.raises(ConfigError):
            load(MINIMAL, **{variable: value})

    def test_of_kubernetes_is_ignored(self, load, caplog):
        endings = (
            "SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP_API", "PORT", "PORT_5000_TCP", "PORT_5000_TCP_ADDR",
            "PORT_53_UDP_PROTO",
        )  # fmt: skip
        services = ("", "PROXY_", "AUTH_", "HTTP_TLS_", "MIRROR_2_")
        load(MINIMAL, **{f"REGISTRY_{service}{ending}": "tcp://x" for service in services for ending in endings})
        assert [] == caplog.messages
        names = {f"REGISTRY_{name.upper().replace('.', '_')}" for key in KEYS for name in ancestry(key)}
        assert [] == [name for name in names if distribution.KUBERNETES.match(name)]

    def test_has_no_effect_without_such_a_file(self):
        assert "distribution" != read_flavor({"REGISTRY_STORAGE_DELETE_ENABLED": "false"}).name


class TestAVariableWithoutThePrefix:
    """Beside variables of registry:2, where no file is given: the image then chooses distribution.yml."""

    def test_applies_too(self, caplog):
        config = load_config({
            "DOCKER_REGISTRY_CONFIG": "distribution.yml", "REGISTRY_HTTP_SECRET": "x", "REGISTRY_AUTH": "htpasswd",
            "REGISTRY_AUTH_HTPASSWD_PATH": "/users", "REGISTRY_STORAGE_DELETE_ENABLED": "true",
            "LOGLEVEL": "debug", "SMTP_HOST": "mail.example", "STORAGE_PATH": "/images", "STORAGE_PAGE_CACHE": "none",
            "CACHE_LRU_REDIS_HOST": "cache.example", "CORS_ORIGINS": "https://ui.example", "STORAGE_REDIRECT": "",
            "SMTP_PORT": "tcp://10.0.0.1:25",
        })  # fmt: skip
        assert ("debug", "mail.example", 25) == (
            config.loglevel, config.email_exceptions.smtp_host, config.email_exceptions.smtp_port,
        )  # fmt: skip
        assert ("/images", True, "/users") == (
            config.driver_options["storage_path"], config.delete_tags, str(config.auth.htpasswd),
        )  # fmt: skip
        assert ("cache.example", ("https://ui.example",)) == (config.cache_lru.host, config.cors.origins)
        assert [] == caplog.messages

    def test_is_known_to_the_registry(self):
        sample = (Path(__file__).parents[2] / "config/config_sample.yml").read_text()
        common, local = sample.partition("\nlocal:")[0], re.search(r"\nlocal:.*?\n\n", sample, re.DOTALL)[0]
        names = set(re.findall(r": _env:(\w+)", common + local))
        plain = {name for name in names if not name.startswith("REGISTRY_")}
        given = {"DOCKER_REGISTRY_CONFIG": "distribution.yml", **dict.fromkeys(plain, "1")}
        tree = read_flavor({**given, "REGISTRY_LOG_FORMATTER": "json"}).tree
        values = [value for part in tree.values() for value in (part.values() if isinstance(part, dict) else [part])]
        assert len(plain) == values.count("1")

    @pytest.mark.parametrize(
        ("plain", "theirs"),
        [
            ("LOGLEVEL", {"REGISTRY_LOG_LEVEL": "info"}),
            ("LOGLEVEL", {"REGISTRY_LOG": "{level: info}"}),
            ("STORAGE_PATH", {"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": "/a"}),
            ("STORAGE_PATH", {"REGISTRY_STORAGE": "s3"}),
            ("STORAGE_REDIRECT", {"REGISTRY_STORAGE_REDIRECT_DISABLE": "true"}),
            ("CACHE_LRU_REDIS_HOST", {"REGISTRY_REDIS_ADDR": "a:1"}),
            ("CORS_ORIGINS", {"REGISTRY_HTTP_HEADERS": "{Access-Control-Allow-Origin: [a]}"}),
            ("MIRROR_SOURCE", {"REGISTRY_PROXY_REMOTEURL": "https://registry-1.docker.io"}),
        ],
    )
    def test_that_sets_the_same_prevents_the_start(self, plain, theirs):
        (other,) = theirs
        with pytest.raises(ConfigError, match=f"{plain} and {other} set the same"):
            load_config({"DOCKER_REGISTRY_CONFIG": "distribution.yml", plain: "x", **theirs})

    def test_has_no_effect_beside_a_file(self, load):
        config = load(MINIMAL, LOGLEVEL="debug", STORAGE_PATH="/x")
        assert ("info", "/srv/registry") == (config.loglevel, config.driver_options["storage_path"])


class TestTheReference:
    def test_is_documented(self):
        page = (Path(__file__).parents[2] / "docs/distribution.md").read_text()
        assert table() in page

    def test_leads_to_settings_that_exist(self):
        from docker_registry import drivers
        from docker_registry.config.schema import Config
        from docker_registry.settings import settings_of

        known = {each.name for each in settings_of(Config)}
        for driver in ("file", "s3", "gcs", "azureblob", "swift"):
            known |= {each.name for each in drivers.load(driver).settings}
        notes = " ".join(key.note for key in KEYS.values())
        found = re.findall(r"`((?:auth|tls|cache_lru|s3|gcs|azure|swift|storage|delete|upload)[_.][\w.]+)`", notes)
        assert set(found) <= known

    @pytest.mark.parametrize("version", ["2.8", pytest.param("3", marks=pytest.mark.slow)])
    def test_has_every_key_of_distributions(self, version, tmp_path):
        names = complete_example(version, tmp_path)
        assert 150 < len(names)
        assert [] == [name for name in names if not any(part in KEYS for part in ancestry(name))]

    def test_of_a_file_without_a_version_is_none(self):
        assert not distribution.is_distribution({"version": {"storage": "file"}})
