from __future__ import annotations

import io
import tarfile
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docker_registry.errors import LayerFormatUnsupported, TooLarge
from docker_registry.registry.layers.tarstream import (
    FREE_EXTENSION_BYTES,
    MAX_EXTENSION_BYTES,
    MAX_EXTENSIONS,
    TarReader,
)
from tests.support.layers import EMPTY, FORMATS, TYPES, cut, member, patched, tar

LONG = "long/" * 60 + "name"


class Notes:
    """A visitor that keeps everything."""

    def __init__(self):
        self.members = []
        self.contents = []

    def member(self, member):
        self.members.append(member)
        self.contents.append(b"")

    def content(self, block):
        self.contents[-1] += bytes(block)


def read(*blocks, **bounds):
    notes = Notes()
    reader = TarReader(notes, **bounds)
    for block in blocks:
        reader.feed(block)
    reader.finish()
    return notes


def only(archive):
    (found,) = read(archive).members
    return found


def extension(kind, content):
    """A complete header that describes the next member."""
    described = tarfile.TarInfo("extension")
    described.type, described.size = kind, len(content)
    return described.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)


def record(keyword, value):
    rest = b" " + keyword + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length += 1
    return b"%d" % length + rest


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0\n="), min_size=1, max_size=120).map(
    lambda name: "n" + name.replace("/", "_")
)
MEMBERS = st.lists(
    st.builds(
        member,
        st.lists(NAMES, min_size=1, max_size=4).map("/".join),
        st.just("file"),
        st.binary(max_size=1200),
        mode=st.integers(0, 0o7777),
        uid=st.integers(0, 2**31),
        gid=st.integers(0, 2**21),
        mtime=st.integers(0, 2**34),
        uname=st.sampled_from(["", "root", "añn"]),
    )
    | st.builds(member, NAMES, st.sampled_from(sorted(TYPES)), linkname=NAMES),
    max_size=6,
)


class TestATar:
    @settings(deadline=None)  # the machine may be busy
    @given(MEMBERS, st.sampled_from(["gnu", "pax"]), st.integers(1, 3000))
    def test_is_read_as_python_reads_it(self, members, form, size):
        archive = tar(*members, form=form)
        notes = read(*cut(archive, size))
        with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
            expected = [
                (each.name, each.type, each.size, each.mode, each.uid, each.gid, each.mtime, each.linkname, each.uname)
                for each in packed
            ]
        assert expected == [
            (
                each.name.decode().rstrip("/"),
                each.type,
                each.size,
                each.mode,
                each.uid,
                each.gid,
                each.mtime,
                each.linkname.decode(),
                each.uname.decode(),
            )
            for each in notes.members
        ]
        assert [content for _, content in members] == notes.contents

    @settings(deadline=None)  # the machine may be busy
    @given(MEMBERS, st.data())
    def test_that_is_truncated_is_rejected_without_waiting(self, members, data):
        archive = tar(*members, form="pax")
        whole = read(archive).members
        end = data.draw(st.integers(0, len(archive)))
        try:
            found = read(archive[:end]).members
        except LayerFormatUnsupported:
            assert end % 512 or whole
        else:
            assert whole[: len(found)] == found

    @pytest.mark.parametrize("form", FORMATS)
    def test_may_lack_the_empty_blocks_at_its_end(self, form):
        assert 1 == len(read(tar(member("x", content=b"x"), form=form)[:1024]).members)

    def test_ends_at_the_first_empty_block(self):
        assert [] == read(EMPTY + tar("x")).members

    @pytest.mark.parametrize("end", [1, 511, 513, 1023])
    def test_truncated_inside_a_member_is_rejected(self, end):
        with pytest.raises(LayerFormatUnsupported):
            read(tar(member("x", content=b"x"))[:end])

    def test_of_v7_without_a_magic_is_read(self):
        old = patched(tar(member("x", content=b"abc")), 257, bytes(80))
        assert (b"x", 3) == (only(old).name, only(old).size)

    def test_with_a_checksum_over_signed_bytes_is_read(self):
        archive = bytearray(tar(member("x", uname="é")))
        signed = sum(byte - 256 if byte > 127 else byte for byte in archive[:148] + b" " * 8 + archive[156:512])
        archive[148:156] = b"%06o\0 " % signed
        assert b"x" == only(archive).name

    def test_of_ustar_joins_the_two_halves_of_a_name(self):
        assert only(tar("long/" * 30 + "name", form="ustar")).name == b"long/" * 30 + b"name"

    def test_of_gnu_has_no_prefix_field(self):
        assert b"x" == only(patched(tar("x"), 345, b"12345670123\0")).name


class TestAHeader:
    @pytest.mark.parametrize("value", [0, 0o7777777, 2**40, -5])
    def test_has_numbers_in_octal_or_base_256(self, value):
        assert value == only(tar(member("x", uid=value))).uid

    @pytest.mark.parametrize("field", [b"     644", b"0000644\0", b"644\0\0\0\0\0", b"644     "])
    def test_has_numbers_with_the_padding_of_any_writer(self, field):
        assert 0o644 == only(patched(tar("x"), 100, field)).mode

    @pytest.mark.parametrize("field", [b"0000o64\0", b"-000644\0", b"000_644\0", b"0000648\0"])
    def test_rejects_other_numbers(self, field):
        with pytest.raises(LayerFormatUnsupported):
            read(patched(tar("x"), 100, field))

    def test_rejects_a_negative_size(self):
        with pytest.raises(LayerFormatUnsupported):
            read(patched(tar("x"), 124, b"\xff" * 12))

    def test_with_a_wrong_checksum_is_rejected(self):
        with pytest.raises(LayerFormatUnsupported):
            read(b"y" + tar("x")[1:])

    @pytest.mark.parametrize("kind", ["link", "symlink", "char", "block", "folder", "pipe"])
    def test_of_a_member_without_content_may_state_a_size(self, kind):
        archive = tar(member("x", kind), "next")
        notes = read(patched(archive, 124, b"00000001000\0"))
        assert [512, 0] == [each.size for each in notes.members]


class TestAnExtendedHeader:
    @pytest.mark.parametrize(
        ("keyword", "value", "field", "expected"),
        [
            (b"path", LONG.encode(), "name", LONG.encode()),
            (b"path", b"caf\xe9", "name", b"caf\xe9"),
            (b"linkpath", b"target", "linkname", b"target"),
            (b"uname", "añn".encode(), "uname", "añn".encode()),
            (b"gname", b"users", "gname", b"users"),
            (b"uid", b"3000000", "uid", 3000000),
            (b"gid", b"-2", "gid", -2),
            (b"uid", b"9" * 5000, "uid", 0),
            (b"mtime", b"1400000000.5", "mtime", Decimal("1400000000.5")),
            (b"mtime", b"nan", "mtime", 0),
            (b"mtime", b"1e999999999", "mtime", 0),
            (b"path", b"", "name", b"x"),
            (b"SCHILY.xattr.security.capability", b"\x01\0\0\x02=\n\xff", "name", b"x"),
        ],
    )
    def test_overrides_the_header(self, keyword, value, field, expected):
        archive = extension(b"x", record(b"comment", b"none") + record(keyword, value)) + tar("x")
        assert expected == getattr(only(archive), field)

    def test_states_the_size_of_the_member(self):
        archive = patched(tar(member("x", content=b"abc"), "next"), 124, b"00000000000\0")
        notes = read(extension(b"x", record(b"size", b"3")) + archive)
        assert ([b"abc", b""], [3, 0]) == (notes.contents, [each.size for each in notes.members])

    def test_applies_to_one_member(self):
        assert [b"y", b"z"] == [
            each.name for each in read(extension(b"x", record(b"path", b"y")) + tar("x", "z")).members
        ]

    def test_may_apply_to_all_following_members(self):
        members = read(extension(b"g", record(b"uid", b"7")) + tar("x", member("y", uid=5))).members
        assert [7, 7] == [each.uid for each in members]

    def test_of_gnu_contains_long_names(self):
        found = only(tar(member(LONG, "symlink", linkname="to/" + LONG)))
        assert (LONG.encode(), b"to/" + LONG.encode()) == (found.name, found.linkname)

    @pytest.mark.parametrize(
        "content",
        [
            b"x",
            b"5 a=b",
            b"6 a=b\nx",
            b"99 path=x\n",
            b"0 path=x\n",
            b"-9 path=x\n",
            b"9 path:x\n",
            b"9 path=x\0",
            b"\0" * 512,
        ],
    )
    def test_that_is_damaged_is_rejected(self, content):
        with pytest.raises(LayerFormatUnsupported):
            read(extension(b"x", content) + tar("x"))

    def test_requires_a_following_member(self):
        with pytest.raises(LayerFormatUnsupported):
            read(extension(b"x", record(b"path", b"y")) + EMPTY)

    @pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
    def test_that_claims_gigabytes_is_rejected_before_they_arrive(self, kind):
        with pytest.raises(TooLarge):
            read(patched(extension(kind, b"x" * MAX_EXTENSION_BYTES), 124, b"77777777777\0"))

    def test_may_be_one_of_several_of_a_member(self):
        few = extension(b"x", record(b"uid", b"7")) * MAX_EXTENSIONS
        assert [7, 7] == [each.uid for each in read((few + tar("x")[:512]) * 2).members]
        with pytest.raises(TooLarge):
            read(few + extension(b"x", record(b"uid", b"7")) + tar("x"))

    def test_counts_against_the_limit_with_others_of_its_member(self):
        half = extension(b"L", b"x" * (MAX_EXTENSION_BYTES // 2))
        assert MAX_EXTENSION_BYTES // 2 == len(only(half + half + tar("x")).name)
        with pytest.raises(TooLarge):
            read(half + half + extension(b"K", b"x") + tar("x"))

    @pytest.mark.parametrize("kind", [b"x", b"L", b"X"])
    def test_is_limited_to_a_part_of_the_layer(self, kind):
        content = record(b"comment", b"x" * 1_000_000)
        one = extension(kind, content) + tar("x")[:512]
        with pytest.raises(TooLarge):
            read(*[one] * (FREE_EXTENSION_BYTES // 1_000_000 + 1))

    def test_for_all_following_members_is_counted_once(self):
        archive = extension(b"g", record(b"uname", b"x" * 1_000_000)) + tar("x")[:512] * 1000
        with pytest.raises(TooLarge):
            read(archive)


class TestASparseFile:
    def test_of_old_gnu_has_its_real_size_and_a_continued_map(self):
        header = patched(tar(member("x", b"S", b"abc")), 483, b"00000100000\0")
        assert (32768, 3) == (only(header).size, only(header).stored)
        longer = patched(header, 482, b"\1")
        goes_on, ends = bytes(504) + b"\1" + bytes(7), bytes(512)
        notes = read(longer[:512] + goes_on + ends + longer[512:])
        assert [b"abc"] == notes.contents

    @pytest.mark.parametrize("keyword", [b"GNU.sparse.size", b"GNU.sparse.realsize"])
    def test_of_pax_has_its_real_size_and_name(self, keyword):
        records = record(b"GNU.sparse.name", b"real") + record(keyword, b"1000000") + record(b"path", b"GNUSparse.0/x")
        notes = read(extension(b"x", records) + tar(member("x", content=b"abc"), "next"))
        assert [(b"real", 1000000), (b"next", 0)] == [(each.name, each.size) for each in notes.members]


class TestManyMembers:
    def test_are_rejected_beyond_the_limit(self):
        assert 3 == len(read(tar("a", "b", "c"), max_members=3).members)
        with pytest.raises(TooLarge):
            read(tar("a", "b", "c"), max_members=2)

    def test_yield_their_content_as_it_arrives(self):
        notes = Notes()
        reader = TarReader(notes)
        for block in (*cut(tar(member("x", content=b"abcdef"))[:516], 514),):
            reader.feed(block)
        assert [b"abcd"] == notes.contents
