from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docker_registry.errors import LayerFormatUnsupported, TooLarge
from docker_registry.registry.layers.archives import uncompressed
from docker_registry.registry.layers.file_lists import MAX_NAME_BYTES, FileList, FileLister, FileListWriter, diff
from docker_registry.registry.layers.tarstream import TarReader
from tests.support.layers import COMPRESS, EMPTY, member, patched, tar

FIXTURES = Path(__file__).parent.parent.parent / "fixtures/layers"


def files(layer, max_bytes=None):
    """List the files of a layer, given its blocks."""
    lister = FileLister()
    reader = TarReader(lister)
    for block in uncompressed(layer, max_bytes=max_bytes):
        reader.feed(block)
    reader.finish()
    return lister.files


def listed(*members, form="gnu"):
    return files([tar(*members, form=form)])


def names(*members, form="gnu"):
    return [(entry.name, entry.deleted) for entry in listed(*members, form=form).entries]


class TestTheListOfALayer:
    def test_equals_that_of_0_7_1(self):
        with (FIXTURES / "seed-base.tar.gz").open("rb") as layer:
            assert (FIXTURES / "seed-base.files.json").read_bytes() == files(layer).answer()

    @pytest.mark.parametrize("compression", COMPRESS)
    def test_has_eight_fields_per_line(self, compression):
        layer = tar(member("etc", "folder", mode=0o755), member("etc/motd", content=b"hello\n", uid=1000, gid=100))
        expected = (
            b'[["etc", "d", false, 0, 1400000000, 493, 0, 0], ["etc/motd", "f", false, 6, 1400000000, 420, 1000, 100]]'
        )
        assert expected == files([COMPRESS[compression](layer)]).answer()

    @pytest.mark.parametrize("layer", [EMPTY, b"", COMPRESS["gzip"](EMPTY)])
    def test_of_an_empty_layer_is_empty(self, layer):
        assert b"[]" == files([layer]).answer()

    @pytest.mark.parametrize(
        ("kind", "letter"),
        [
            (b"0", "f"),
            (b"\0", "f"),
            (b"1", "l"),
            (b"2", "s"),
            (b"3", "c"),
            (b"4", "b"),
            (b"5", "d"),
            (b"6", "i"),
            (b"7", "t"),
            (b"S", "S"),
            (b"V", "u"),
            (b"\xff", "u"),
        ],
    )
    def test_denotes_types_by_letters(self, kind, letter):
        layer = patched(tar("x"), 156, kind)
        assert [letter] == [entry.type for entry in files([layer]).entries]

    def test_recognizes_folders_of_v7_by_their_slash(self):
        (entry,) = files([patched(tar("x/"), 156, b"\0")]).entries
        assert ("x", "d") == (entry.name, entry.type)

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("etc/motd", "etc/motd"),
            ("./etc/motd", "/etc/motd"),
            ("/etc/motd", "/etc/motd"),
            ("./", "/"),
            (".", "/"),
            ("/", "/"),
            ("./etc/", "/etc"),
            (".hidden", ".hidden"),
            ("../x", "../x"),
            ("x" * 300, "x" * 300),
            ("caf\u00e9/\u65e5\u672c", "caf\u00e9/\u65e5\u672c"),
        ],
    )
    @pytest.mark.parametrize("form", ["gnu", "pax"])
    def test_has_names_as_in_the_tar_without_the_leading_dot(self, name, expected, form):
        kind = "folder" if name.endswith((".", "/")) else "file"
        assert [(expected, False)] == names(member(name, kind), form=form)

    @pytest.mark.parametrize("form", ["gnu", "pax"])
    def test_escapes_names_that_are_not_utf_8(self, form):
        layer = listed(b"caf\xe9".decode("utf-8", "surrogateescape"), "caf\u00e9", form=form)
        assert ["caf\\xe9", "caf\u00e9"] == [name for name, *_ in json.loads(layer.answer())]
        assert b'[["caf\\\\xe9", ' == layer.answer()[:14]

    def test_has_fractions_of_a_second_if_the_tar_has_them(self):
        layer = listed(member("x", pax_headers={"mtime": "1400000000.5"}), form="pax")
        assert [1400000000.5] == [entry.mtime for entry in layer.entries]

    def test_ignores_extended_attributes(self):
        attributes = {"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\udcff=\n"}
        assert [("bin/ping", False)] == names(member("bin/ping", pax_headers=attributes), form="pax")

    def test_has_hard_links_with_their_stated_size(self):
        layer = listed(member("x", content=b"abc"), member("y", "link", linkname="x"))
        assert [("x", "f", 3), ("y", "l", 0)] == [(entry.name, entry.type, entry.size) for entry in layer.entries]

    def test_repeats_a_name_as_often_as_the_tar(self):
        assert [("x", False), ("x", False)] == names("x", "x")


class TestAWhiteout:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("etc/.wh.motd", "etc/motd"),
            ("./etc/.wh.motd", "/etc/motd"),
            ("./.wh.motd", "/motd"),
            (".wh.motd", "motd"),
            ("a/b/c/.wh..hidden", "a/b/c/.hidden"),
        ],
    )
    def test_is_listed_as_the_file_that_it_deletes(self, name, expected):
        assert [(expected, True)] == names(name)

    @pytest.mark.parametrize("name", ["x.wh.y", ".wh.", "a/.wh.", ".wh.folder/x"])
    def test_accepts_no_other_type(self, name):
        assert [(name, False)] == names(name)

    @pytest.mark.parametrize(
        "name", [".wh..wh..opq", "a/.wh..wh..opq", "./.wh..wh.aufs", ".wh..wh.orph/", "./.wh..wh.plnk/120.7"]
    )
    def test_of_aufs_metadata_is_omitted(self, name):
        assert [] == names(name)

    def test_of_a_whole_folder_is_stored_with_the_list(self):
        assert {"", "a/b"} == listed(".wh..wh..opq", "./a/b/.wh..wh..opq").opaque


class TestTheRecordOfAList:
    def test_restores_the_list(self):
        layer = listed(member("x", pax_headers={"mtime": "1.5"}), "a/.wh.y", "a/.wh..wh..opq", form="pax")
        assert layer == FileList.parse(layer.record())

    @pytest.mark.parametrize("count", [0, 1, 2, 5])
    def test_may_be_written_incrementally(self, count):
        layer = listed(*(f"file-{number}" for number in range(count)), ".wh..wh..opq")
        writer = FileListWriter()
        pieces = [writer.write([entry]) for entry in layer.entries]
        assert layer.record() == b"".join(pieces) + writer.finish(layer.opaque)
        assert layer.record().startswith(layer.answer() + b"\n")

    @pytest.mark.parametrize("record", [b"", b"{}", b"[]", b'{"entries": [["x"]], "opaque": []}', b"\xff"])
    def test_that_is_malformed_is_rejected(self, record):
        with pytest.raises(ValueError):
            FileList.parse(record)


class TestALayerThatCannotBeListed:
    @pytest.mark.parametrize(
        "layer",
        [
            b"no tar" * 1000,
            COMPRESS["gzip"](b"no tar" * 1000),
            tar("x", member("y", content=b"abc"))[:1100],
            COMPRESS["gzip"](tar("x"))[:-3],
            tar("x")[:512] + b"garbage" * 100,
        ],
    )
    def test_has_the_error_message_of_api_v1(self, layer):
        with pytest.raises(LayerFormatUnsupported) as refused:
            files([layer])
        assert "Layer format not supported" == refused.value.sentence

    def test_expands_beyond_the_limit(self):
        with pytest.raises(TooLarge):
            files([COMPRESS["zstd"](tar(member("x", content=bytes(1 << 20))))], max_bytes=1 << 20)

    def test_has_too_many_bytes_of_names(self):
        TarReader(FileLister(max_names_bytes=10)).feed(tar("x" * 5, "y" * 5))
        with pytest.raises(TooLarge):
            TarReader(FileLister(max_names_bytes=10)).feed(tar("x" * 5, "y" * 6))

    def test_has_a_name_that_no_system_can_open(self):
        assert 1 == len(listed("x" * MAX_NAME_BYTES).entries)
        with pytest.raises(TooLarge):
            listed("x" * (MAX_NAME_BYTES + 1))

    @settings(deadline=None)  # the machine may be busy
    @given(st.binary(min_size=1, max_size=600), st.integers(0, 4000))
    def test_is_rejected_without_side_effects(self, garbage, position):
        layer = bytearray(tar(member("x" * 200, content=b"abc"), member("y", pax_headers={"uid": "5"}), form="pax"))
        layer[position : position + len(garbage)] = garbage
        try:
            json.loads(files([bytes(layer)]).answer())
        except (LayerFormatUnsupported, TooLarge):
            pass


def changes(*chain):
    """The changes of the first of some lists of names: three sets of names, deleted, changed, created."""
    result = diff([listed(*layer) for layer in chain])
    return set(result.deleted), set(result.changed), set(result.created)


class TestADiff:
    def test_has_the_other_seven_fields_for_each_name(self):
        base = listed(member("a", content=b"a"), "b")
        top = listed(member("a", content=b"bb"), ".wh.b", "c")
        expected = (
            b'{"changed": {"a": ["f", false, 2, 1400000000, 420, 0, 0]}, '
            b'"created": {"c": ["f", false, 0, 1400000000, 420, 0, 0]}, '
            b'"deleted": {"b": ["f", true, 0, 1400000000, 420, 0, 0]}}'
        )
        assert expected == diff([top, base]).answer()

    def test_of_a_base_layer_lists_everything_as_created_even_whiteouts(self):
        assert (set(), set(), {"a", "b"}) == changes(["a", ".wh.b"])

    def test_of_an_empty_layer_is_empty(self):
        assert b'{"changed": {}, "created": {}, "deleted": {}}' == diff([listed(), listed("a")]).answer()

    def test_examines_all_ancestors(self):
        assert (set(), {"a", "b"}, {"c"}) == changes(["a", "b", "c"], ["a"], [], ["b"])

    def test_lists_a_whiteout_as_deleted_without_a_file_below(self):
        assert ({"never/there"}, set(), set()) == changes(["never/.wh.there"], ["a"])

    def test_lists_a_file_deleted_by_a_parent_as_created(self):
        assert (set(), set(), {"etc/a"}) == changes(["etc/a"], ["etc/.wh.a"], ["etc/a"])

    def test_lists_a_file_recreated_by_a_nearer_parent_as_changed(self):
        assert (set(), {"etc/a"}, set()) == changes(["etc/a"], ["etc/a"], ["etc/.wh.a"], ["etc/a"])

    @pytest.mark.parametrize("between", [[".wh.etc"], ["etc/.wh..wh..opq"], ["etc"], [".wh..wh..opq"]])
    def test_lists_a_file_deleted_with_its_folder_as_created(self, between):
        assert (set(), set(), {"etc/deep/a"}) == changes(["etc/deep/a"], between, ["etc/deep/a"])

    def test_lists_a_file_of_a_recreated_folder_as_created(self):
        between = [".wh.etc", member("etc", "folder"), "etc/b"]
        assert (set(), {"etc/b"}, {"etc/a"}) == changes(["etc/a", "etc/b"], between, ["etc/a", "etc/b"])

    def test_lists_a_file_as_created_if_a_file_had_replaced_its_folder(self):
        between = [[member("etc", "folder")], ["etc"]]
        assert (set(), set(), {"etc/a"}) == changes(["etc/a"], *between, ["etc/a"])

    def test_lists_a_file_as_changed_despite_a_whiteout_in_its_own_layer(self):
        assert (set(), {"a"}, set()) == changes(["a", ".wh.a"], ["a"]) == changes([".wh.a", "a"], ["a"])

    def test_treats_two_spellings_of_a_path_as_one(self):
        assert (set(), {"/etc/a", "/etc"}, set()) == changes(["./etc/a", member("./etc/", "folder")], ["etc/a", "etc"])

    def test_of_a_repeated_name_has_the_last_entry(self):
        assert {"a": ("f", False, 2, 1400000000, 420, 0, 0)} == diff(
            [listed(member("a", content=b"a"), member("a", content=b"bb"))]
        ).created


class TestAnOpaqueFolder:
    def test_deletes_files_that_it_does_not_contain(self):
        below = [member("etc", "folder"), "etc/a", "etc/b", "etcetera", member("etc/d", "folder"), "etc/d/c"]
        top = [member("etc", "folder"), "etc/.wh..wh..opq", "etc/b", "etc/new"]
        assert ({"etc/a", "etc/d"}, {"etc", "etc/b"}, {"etc/new"}) == changes(top, below)

    def test_deletes_with_the_visible_entry(self):
        below = listed(member("etc/a", content=b"abc", uid=7))
        deleted = diff([listed("etc/.wh..wh..opq"), listed(), below]).deleted
        assert {"etc/a": ("f", True, 3, 1400000000, 420, 7, 0)} == deleted

    def test_deletes_no_file_that_was_already_hidden(self):
        assert (set(), set(), set()) == changes(["etc/.wh..wh..opq"], ["etc/.wh.a"], ["etc/a"])

    def test_may_replace_itself(self):
        top = [".wh.etc", member("etc", "folder"), "etc/b"]
        assert ({"etc/a"}, {"etc/b"}, {"etc"}) == changes(top, ["etc/a", "etc/b"])

    def test_may_be_the_root(self):
        assert ({"a"}, set(), {"b"}) == changes([".wh..wh..opq", "b"], ["a", "a/b"])


PATHS = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
LAYERS = st.lists(
    st.one_of(
        PATHS.map(lambda path: member(path, "file")),
        PATHS.map(lambda path: member(path, "folder")),
        PATHS.map(lambda path: member("/".join([*path.split("/")[:-1], ".wh." + path.split("/")[-1]]))),
        PATHS.map(lambda path: member(path + "/.wh..wh..opq")),
    ),
    max_size=6,
    unique_by=lambda each: each[0].name.replace(".wh.", ""),
)


def lay_over(tree, layer):
    """Unpack a layer over a tree of path to type, as an engine does: first whiteouts, then the files of the layer."""
    for entry in layer.entries:
        if entry.deleted:
            tree = {path: kind for path, kind in tree.items() if not f"{path}/".startswith(f"{entry.path}/")}
    for folder in layer.opaque:
        tree = {path: kind for path, kind in tree.items() if not path.startswith(f"{folder}/")}
    for entry in layer.entries:
        if not entry.deleted and entry.type != "d":
            brought = {other.path for other in layer.entries}
            below = f"{entry.path}/"
            tree = {path: kind for path, kind in tree.items() if not path.startswith(below) or path in brought}
    return tree | {entry.path: entry.type for entry in layer.entries if not entry.deleted}


class TestArbitraryChains:
    @settings(deadline=None)  # the machine may be busy
    @given(LAYERS, st.lists(LAYERS, min_size=1, max_size=4))
    def test_have_the_created_and_changed_files_of_an_unpacked_image(self, top, parents):
        own = listed(*top)
        below = {}
        for layer in reversed(parents):
            below = lay_over(below, listed(*layer))
        result = diff([own, *(listed(*layer) for layer in parents)])
        brought = {entry.path for entry in own.entries if not entry.deleted}
        assert brought & below.keys() == set(result.changed)
        assert brought - below.keys() == set(result.created)
        assert not set(result.deleted) & brought

    @settings(deadline=None)  # the machine may be busy
    @given(LAYERS, st.lists(LAYERS, min_size=1, max_size=4))
    def test_have_the_deleted_files_of_an_unpacked_image(self, top, parents):
        own = listed(*top)
        below = {}
        for layer in reversed(parents):
            below = lay_over(below, listed(*layer))
        result = diff([own, *(listed(*layer) for layer in parents)])
        told = {*result.deleted, *(entry.path for entry in own.entries if entry.type != "d")}
        for path in below.keys() - lay_over(below, own).keys():
            assert path in told or any(path.startswith(f"{folder}/") for folder in told)
