"""How an index is selected, and the errors if that fails."""

from __future__ import annotations

import sys

import pytest

from docker_registry.errors import ConfigError
from docker_registry.registry.search.backends import open_index
from docker_registry.registry.search.index import Entry, NullIndex, Page, Result, SearchIndex

NOWHERE = "sqlite:////nowhere/registry.db"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module and return its name."""

    def write(source):
        (tmp_path / "their_search.py").write_text(source)
        return "their_search"

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    sys.modules.pop("their_search", None)


class TestNoBackend:
    @pytest.mark.parametrize("backend", [None, ""])
    def test_finds_nothing(self, backend):
        index = open_index(backend, NOWHERE)
        index.put(Entry("acme/web"))
        index.delete("acme/api")

        assert isinstance(index, NullIndex)
        assert Page("web", page=2, page_size=10) == index.search("web", page=2, page_size=10)
        assert 1 == index.reindex([Entry("acme/web")])
        assert index.is_complete()


class TestAPage:
    def test_has_the_total_count(self):
        assert 0 == Page("", num_results=0).num_pages
        assert 1 == Page("", page_size=25, num_results=25).num_pages
        assert 2 == Page("", page_size=25, num_results=26).num_pages


class TestACustomModule:
    def test_needs_three_methods(self, module):
        name = module(
            "from docker_registry.registry.search.index import Page, Result, SearchIndex\n"
            "class Index(SearchIndex):\n"
            "    def __init__(self): self.entries = {}\n"
            "    def put(self, entry): self.entries[entry.name] = entry\n"
            "    def delete(self, name): self.entries.pop(name, None)\n"
            "    def search(self, query, *, page=1, page_size=25, private=False):\n"
            "        found = tuple(Result(name, star_count=5) for name in self.entries if query in name)\n"
            "        return Page(query, page, page_size, len(found), found)\n"
        )
        index = open_index(name, NOWHERE)

        assert isinstance(index, SearchIndex)
        assert 2 == index.reindex([Entry("acme/web"), Entry("acme/api")])
        assert (Result("acme/web", star_count=5),) == index.search("web").results
        assert index.is_complete()
        index.close()

    def test_that_is_missing_is_named(self):
        with pytest.raises(ConfigError, match=r"there is no module no_such_package\.search; sqlalchemy is built in"):
            open_index("no_such_package.search", NOWHERE)

    def test_with_a_missing_import_names_it(self, module):
        name = module("import xapian_of_yore\n")
        with pytest.raises(ConfigError, match="the module their_search needs xapian_of_yore, which is not installed"):
            open_index(name, NOWHERE)

    def test_without_the_class_is_rejected(self, module):
        with pytest.raises(ConfigError, match="the module their_search has no class Index that inherits from"):
            open_index(module("class Index:\n    pass\n"), NOWHERE)

    def test_with_an_incomplete_class_is_rejected(self, module):
        name = module(
            "from docker_registry.registry.search.index import SearchIndex\n"
            "class Index(SearchIndex):\n"
            "    def put(self, entry): pass\n"
        )
        with pytest.raises(ConfigError, match=r"their_search\.Index has no delete, search"):
            open_index(name, NOWHERE)

    @pytest.mark.parametrize("name", [".search", "their search", "a..b", "search;"])
    def test_with_an_invalid_name_is_rejected(self, name):
        with pytest.raises(ConfigError, match="must be sqlalchemy or the name of a Python module"):
            open_index(name, NOWHERE)


class TestAnUnusableDatabaseUrl:
    @pytest.mark.parametrize(
        "url", ["", "registry.db", "oracle://registry:hunter2@host/db", "postgresql//registry:hunter2@host/db", "mysql"]
    )
    def test_is_rejected_without_being_shown(self, url):
        with pytest.raises(ConfigError, match="must be a URL that begins with sqlite://, ") as raised:
            open_index("sqlalchemy", url)

        assert "hunter2" not in str(raised.value)

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("sqlite://registry.db", "write sqlite:/// before the path"),
            ("sqlite:////tmp/registry.db?timeout=hunter2", "a parameter after"),
            ("mysql://registry:hunter2@127.0.0.1:1/search?connect_timeout=x", "a parameter"),
            ("mysql://registry:hunter2@127.0.0.1:1/search?unknown=x", "the parameters of its URL"),
            ("mysql://registry:hunter2@127.0.0.1:1/search?charset=unknown", "the parameters of its URL"),
            ("mysql://registry:hunter2@127.0.0.1:1/search?ssl_ca=/nowhere/ca.pem", "the parameters of its URL"),
        ],
    )
    def test_with_an_invalid_part_prevents_the_start(self, url, message):
        if url.startswith("mysql"):
            pytest.importorskip("pymysql")
        with pytest.raises(ConfigError, match=f"sqlalchemy_index_database: .*{message}") as raised:
            open_index("sqlalchemy", url)
        assert "hunter2" not in str(raised.value)

    def test_of_a_missing_folder_prevents_the_start(self):
        with pytest.raises(ConfigError, match=r"the sqlite database /nowhere/registry\.db failed: unable to open"):
            open_index("sqlalchemy", NOWHERE)

    def test_of_a_file_that_is_not_a_database_prevents_the_start(self, tmp_path):
        (tmp_path / "registry.db").write_text("Dear diary, " * 100)
        with pytest.raises(ConfigError, match="file is not a database"):
            open_index("sqlalchemy", f"sqlite:///{tmp_path}/registry.db")

    @pytest.mark.parametrize(
        ("url", "library", "extra"),
        [("postgres://registry@host/db", "psycopg", "postgresql"), ("mariadb://registry@host/db", "pymysql", "mysql")],
    )
    def test_with_a_missing_library_names_the_package_to_install(self, monkeypatch, url, library, extra):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(ConfigError, match=rf"pip install 'docker-registry\[{extra}\]'"):
            open_index("sqlalchemy", url)


class TestAnUnreachableServer:
    @pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
    def test_does_not_prevent_the_start(self, caplog, scheme):
        pytest.importorskip({"postgresql": "psycopg", "mysql": "pymysql"}[scheme])
        open_index("sqlalchemy", f"{scheme}://registry:hunter2@127.0.0.1:1/search").close()

        (record,) = caplog.records
        assert "the search index is unavailable and will be retried on demand" in record.getMessage()
        assert "database search on 127.0.0.1" in record.getMessage()
        assert "hunter2" not in caplog.text
