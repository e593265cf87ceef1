from __future__ import annotations

from pathlib import Path

import pytest

from docker_registry.errors import LayerFormatUnsupported, TooLarge
from docker_registry.registry.layers.archives import Expansion
from docker_registry.registry.layers.tarstream import TarReader
from docker_registry.registry.layers.tarsum import TarSum, tarsum
from docker_registry.registry.v1.layer_links import payload_checksum
from tests.support.layers import COMPRESS, EMPTY, cut, member, tar

FIXTURES = Path(__file__).parent.parent.parent / "fixtures/layers"

#: An image that Docker 1.5.0 pushed to a running 0.7.1, with the sums that it sent.
RECORDED_JSON = (FIXTURES / "recorded-env.json").read_bytes()
RECORDED_LAYER = bytes.fromhex("1f8b08000000000000ff621805a360148c5800080000ffff2eafb5ef00040000")
RECORDED_TARSUM = "tarsum+sha256:d72a12b41aca100bfca2bd2dc729aa28222283c97b25b7577eafce2524f715ae"
RECORDED_PAYLOAD = "773a429b4ef3aecc3e24e9ce0f2e3dc831af886af6b0b8b22b023007bcfa64fd"

JSON = b'{"id":"0123456789abcdef"}'

#: The sum that moby's pkg/tarsum computes for the layer below, Version0, with uname and gname as before Docker 0.10.
MOBY = "tarsum+sha256:65a98b20da54836e654ddb748c7b330cbcb1f9966019670b9f285d58b9014162"
MOBY_RECORDS = "tarsum+sha256:e5fff0d231bd11f8a25dffe4a47fb42d004d7db8b518ad99d49a033896b57d27"
MOBY_NUMBERS = "tarsum+sha256:30ede82c874e9f516efab5b47517f3211b3271daf16a01fd66b654cc1fd06944"

ANN = {"uid": 1000, "gid": 100, "uname": "ann", "gname": "users"}
MEMBERS = [
    member("etc", "folder", mode=0o755, **ANN),
    member("etc/motd", content=b"hello\n", **ANN),
    member("etc/empty", **ANN),
    member("etc/.wh.gone", **ANN),
    member("etc/link", "symlink", linkname="motd", mode=0o777, **ANN),
    member("etc/hard", "link", linkname="etc/motd", **ANN),
    member("dev/null", "char", devmajor=1, devminor=3, mode=0o666, **ANN),
    member("dev/loop", "block", devmajor=7, devminor=0, **ANN),
    member("run/pipe", "pipe", **ANN),
    member("bin/big", content=bytes(range(256)) * 1000, mode=0o4755, **ANN),
    member("a/" * 70 + "deep", content=b"deep", **ANN),
    member("caf\u00e9", content=b"x" * 512, **ANN),
]


class TestThePayloadChecksum:
    def test_equals_that_of_docker(self):
        checksum = payload_checksum(RECORDED_JSON)
        checksum.update(RECORDED_LAYER)
        assert RECORDED_PAYLOAD == checksum.hexdigest()


class TestTheTarSum:
    def test_equals_that_of_docker(self):
        assert RECORDED_TARSUM == tarsum(RECORDED_JSON, [RECORDED_LAYER], max_bytes=None)

    @pytest.mark.parametrize("form", ["ustar", "gnu", "pax"])
    @pytest.mark.parametrize("compression", COMPRESS)
    def test_is_independent_of_the_packing(self, form, compression):
        layer = COMPRESS[compression](tar(*MEMBERS, form=form))
        assert MOBY == tarsum(JSON, cut(layer, 1000), max_bytes=None)
        assert MOBY == tarsum(JSON, [tar(*reversed(MEMBERS), form=form)], max_bytes=None)

    def test_includes_whole_seconds_and_long_names_of_extended_headers(self):
        records = {"mtime": "1400000000.999999999", "SCHILY.xattr.user.a": "b", "uid": "3000000"}
        layer = tar(
            member("x", content=b"x", pax_headers={**records, "path": "l" + "o" * 200 + "ng"}),
            member("y", pax_headers={"mtime": "-1.5"}),
            form="pax",
        )
        assert MOBY_RECORDS == tarsum(JSON, [layer], max_bytes=None)

    def test_includes_numbers_beyond_octal(self):
        layer = tar(member("x", content=b"abc", uid=2**40, gid=2**21, mtime=-5))
        assert MOBY_NUMBERS == tarsum(JSON, [layer], max_bytes=None)

    @pytest.mark.parametrize(
        "other",
        [
            member("y", content=b"abc"),
            member("x", content=b"abd"),
            member("x", content=b"abc", mode=0o600),
            member("x", content=b"abc", mtime=1),
            member("x", content=b"abc", uname="root"),
        ],
    )
    def test_differs_if_a_file_differs(self, other):
        assert tarsum(JSON, [tar(member("x", content=b"abc"))], max_bytes=None) != tarsum(
            JSON, [tar(other)], max_bytes=None
        )

    def test_is_computed_while_the_layer_is_received(self):
        result = TarSum()
        expansion = Expansion(TarReader(result), max_bytes=None)
        for block in cut(COMPRESS["gzip"](tar(*MEMBERS)), 1000):
            expansion.update(block)
        assert "gzip" == expansion.finish()
        assert MOBY == result.sum(JSON) == result.sum(JSON)

    def test_requires_a_complete_tar(self):
        with pytest.raises(LayerFormatUnsupported):
            tarsum(JSON, [tar(*MEMBERS)[:2000]], max_bytes=None)

    def test_has_a_limit(self):
        with pytest.raises(TooLarge):
            tarsum(JSON, [COMPRESS["zstd"](EMPTY * 1000)], max_bytes=1000)
