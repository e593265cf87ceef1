"""oras-py and python-dxf: clients of OCI registries written in Python."""

from __future__ import annotations

import pytest

from tests.support.clients.v2 import digest_of

oras_client = pytest.importorskip("oras.client", reason="oras is not installed (pip install oras)")
dxf = pytest.importorskip("dxf", reason="python-dxf is not installed (pip install python-dxf)")


@pytest.fixture
def oras(host):
    return oras_client.OrasClient(hostname=host, insecure=True, auth_backend="basic")


class TestOrasPy:
    @pytest.mark.parametrize("chunked", [False, True])
    def test_pushes_lists_pulls_and_deletes(self, oras, reader, host, name, tmp_path, chunked):
        (tmp_path / "file.bin").write_bytes(name.encode() * 50_000)
        target = f"{host}/{name}:v1"
        options = {"do_chunked": True, "chunk_size": 65_536} if chunked else {}
        oras.push(target, files=[f"{tmp_path}/file.bin"], disable_path_validation=True, quiet=True, **options)
        assert ["v1"] == oras.get_tags(target)
        (layer,) = oras.get_manifest(target)["layers"]
        assert name.encode() * 50_000 == reader.get_blob(name, layer["digest"])
        (pulled,) = oras.pull(target, outdir=str(tmp_path / "pulled"))
        with open(pulled, "rb") as file:
            assert name.encode() * 50_000 == file.read()
        assert oras.delete_tag(target, "v1")
        assert not reader.has_manifest(name, "v1")


class TestDxf:
    @pytest.fixture
    def repository(self, host, name):
        return dxf.DXF(host, name, insecure=True)

    def test_pushes_names_lists_pulls_and_deletes(self, repository, name, tmp_path):
        content = name.encode() * 50_000
        (tmp_path / "file.bin").write_bytes(content)
        digest = repository.push_blob(str(tmp_path / "file.bin"))
        assert digest_of(content) == digest
        repository.set_alias("v1", digest)
        assert ["v1"] == repository.list_aliases()
        assert [digest] == repository.get_alias("v1")
        assert content == b"".join(repository.pull_blob(digest))
        assert name in repository.list_repos()
        repository.del_alias("v1")
        assert [] == repository.list_aliases()
        repository.del_blob(digest)

    def test_mounts_a_blob_of_another_repository(self, host, repository, reader, name):
        digest = reader.push_blob(name, b"content")
        other = dxf.DXF(host, f"{name}/other", insecure=True)
        other.mount_blob(name, digest)
        assert b"content" == b"".join(other.pull_blob(digest))
