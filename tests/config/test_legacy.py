"""Every setting of docker-registry 0.7.1 works, or the documentation says why it does not."""

from __future__ import annotations

import functools
from importlib import metadata
from pathlib import Path

import pytest

from docker_registry import drivers
from docker_registry.config import flavors
from docker_registry.config.legacy import SETTINGS_OF_0_7_1
from docker_registry.config.render import reference_of_0_7_1
from docker_registry.settings import flatten

ROOT = Path(__file__).parent.parent.parent

#: Prefixes of settings, and the test that shows that they work: a file, and words that are in it.
TESTS = {
    "loglevel": ("server/test_launch.py", "LOGLEVEL=level"),
    "storage": ("cli/test_main.py", "storage file"),
    "storage_alternate": ("drivers/test_glance.py", "storage_alternate"),
    "storage_path": ("cli/test_main.py", "STORAGE_PATH"),
    "storage_redirect": ("interop/test_s3.py", "STORAGE_REDIRECT"),
    "nginx_x_accel_redirect": ("api/test_x_accel.py", "X_ACCEL_REDIRECT"),
    "privileged_key": ("api/test_privileged_key.py", "privileged_key="),
    "standalone": ("api/test_v1_index.py", '"standalone": False'),
    "index_endpoint": ("api/test_v1_index.py", "index_endpoint="),
    "disable_token_auth": ("api/test_v1_index.py", "disable_token_auth=True"),
    "registry_endpoints": ("api/test_status.py", "REGISTRY_ENDPOINTS"),
    "search_backend": ("api/test_v1_search.py", "SEARCH_BACKEND"),
    "sqlalchemy_index_database": ("api/test_v1_search.py", "SQLALCHEMY_INDEX_DATABASE"),
    "mirroring.": ("registry/v1_mirror/test_mirrored_images.py", "MIRROR_TAGS_CACHE_TTL"),
    "cache.": ("cli/test_diff_worker.py", "CACHE_REDIS_DB"),
    "cache_lru.": ("drivers/cache/test_servers_with_cache.py", "CACHE_LRU"),
    "email_exceptions.": ("error_reports/test_reporting.py", "mail.environment"),
    "bugsnag": ("error_reports/test_reporting.py", "BUGSNAG"),
    "boto_": ("drivers/s3/test_client.py", "boto_host="),
    "s3_": ("drivers/s3/test_client.py", "s3_access_key"),
    "cloudfront.": ("drivers/s3/test_signing.py", "cloudfront"),
    "swift_": ("interop/test_openstack.py", "swift"),
}


@functools.cache
def table():
    """The table of the documentation, of all drivers that come with the registry."""
    names = [entry.name for entry in metadata.entry_points(group="docker_registry.drivers")]
    declared = {name: drivers.load(name).settings for name in sorted(names)}
    return reference_of_0_7_1(declared, flavors.read(flavors.folder() / flavors.SAMPLE))


class TestTheSettingsOf071:
    def test_are_all_in_the_documentation(self):
        # On a difference, put the table where the old one is.
        assert f"\n{table()}\n" in (ROOT / "docs/settings.md").read_text()

    @pytest.mark.parametrize("name", SETTINGS_OF_0_7_1)
    def test_are_tested_where_they_are_served(self, name):
        served = table().partition(f"| `{name}` |")[2].partition("\n")[0]
        if "| served" not in served:
            assert "| ignored: " in served
            return
        file, words = next(test for prefix, test in TESTS.items() if name == prefix or name.startswith(prefix))
        assert words in (ROOT / "tests" / file).read_text()

    def test_have_a_variable_if_they_are_served(self):
        assert [] == [line for line in table().splitlines() if "|  | served" in line]

    def test_have_their_variables_in_the_sample(self):
        sample = flavors.read(flavors.folder() / flavors.SAMPLE)
        found = {
            (name, flavors.variable(raw)) for tree in sample.values() for name, raw in flatten(tree, SETTINGS_OF_0_7_1)
        }
        assert {(name, variable) for name, variable in SETTINGS_OF_0_7_1.items() if variable} <= found
