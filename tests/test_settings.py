"""Declarations of settings, and the conversion of texts to values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docker_registry.settings import Setting, fill, flatten, setting, settings_of


def refusal(setting: Setting, raw: object) -> str:
    with pytest.raises(ValueError) as caught:
        setting.convert(raw)
    assert caught.value.__cause__ is None
    return str(caught.value)


class TestText:
    @given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
    def test_takes_the_characters_as_they_are(self, text):
        assert text == Setting("password").convert(text)

    @pytest.mark.parametrize("text", ["0123", "#x", "true", "null", "~", " padded ", "a:b:c", "[1]", "{a: b}"])
    def test_is_not_guessed_at(self, text):
        assert text == Setting("password").convert(text)

    @pytest.mark.parametrize(
        ("message", "text"),
        [("contains a NUL character", "a\0b"), ("contains half of a surrogate pair, which is no character", "\ud800")],
    )
    def test_must_be_usable_by_files_and_sockets(self, message, text):
        assert message == refusal(Setting("audit_log"), text)
        assert message == refusal(Setting("privileged_key", Path), text)
        assert message == refusal(Setting("origins", list), ["a", text])
        assert message == refusal(Setting("hosts", dict), {"a": text})
        assert message == refusal(Setting("hosts", dict), {text: "a"})

    def test_may_name_a_file_that_is_not_utf_8(self):
        assert "\udcff" == Setting("audit_log").convert("\udcff")

    def test_is_no_list_and_no_section(self):
        assert "must be a text, not a list" == refusal(Setting("host"), ["a"])
        assert "must be a text, not a section" == refusal(Setting("host"), {"a": "b"})


class TestTrueOrFalse:
    @pytest.mark.parametrize("text", ["true", "True", "TRUE", "yes", "on", "1", " true\n"])
    def test_true(self, text):
        assert Setting("standalone", bool).convert(text) is True

    @pytest.mark.parametrize("text", ["false", "False", "FALSE", "no", "off", "0"])
    def test_false(self, text):
        assert Setting("standalone", bool).convert(text) is False

    @pytest.mark.parametrize("text", ["maybe", "2", "truefalse", "~", "[]"])
    def test_anything_else_is_rejected(self, text):
        assert "must be true or false" == refusal(Setting("standalone", bool), text)


class TestNumbers:
    @given(st.integers(min_value=-(10**18) + 1, max_value=10**18 - 1))
    def test_a_whole_number_is_its_digits(self, number):
        assert number == Setting("n", int).convert(str(number))

    @pytest.mark.parametrize("text", ["1.5", "1e3", "0x10", "1_000", "٣", "ten", "", "- 1", "9" * 5000])
    def test_other_than_whole_numbers_are_rejected(self, text):
        assert "must be a whole number of seconds, such as 3600 or 1h" == refusal(
            Setting("ttl", int, unit="seconds"), text
        )

    @pytest.mark.parametrize(("expected", "text"), [(1.5, "1.5"), (0.5, ".5"), (2.0, "2"), (-1000.0, "-1e3")])
    def test_a_number_may_have_a_fraction(self, expected, text):
        assert expected == Setting("rate", float).convert(text)

    @pytest.mark.parametrize("text", ["inf", "nan", "1e999", "1,5", "."])
    def test_other_than_numbers_are_rejected(self, text):
        assert "must be a number" == refusal(Setting("rate", float), text)

    def test_below_the_minimum_is_rejected(self):
        setting = Setting("port", int, minimum=1)

        assert 1 == setting.convert("1")
        assert "must be a whole number, at least 1" == refusal(setting, "0")

    def test_above_the_maximum_is_rejected(self):
        setting = Setting("port", int, maximum=65535)

        assert 65535 == setting.convert("65535")
        assert "must be at most 65535" == refusal(setting, "65536")


class TestDurationsAndSizes:
    @pytest.mark.parametrize(
        ("expected", "text"), [(30, "30s"), (600, "10m"), (86400, "24h"), (604800, "7 d"), (5, "5")]
    )
    def test_a_duration_may_have_a_suffix(self, expected, text):
        assert expected == Setting("ttl", int, unit="seconds").convert(text)

    @pytest.mark.parametrize(
        ("expected", "text"),
        [(1, "1B"), (65536, "64KiB"), (64 * 2**20, "64 MiB"), (50 * 2**30, "50GiB"), (2**40, "1TiB")],
    )
    def test_a_size_may_have_a_suffix(self, expected, text):
        assert expected == Setting("max_bytes", int, unit="bytes").convert(text)

    @pytest.mark.parametrize(
        ("unit", "text"), [("seconds", "5MiB"), ("bytes", "7d"), ("", "7d"), ("bytes", "5MB"), ("seconds", "-1h")]
    )
    def test_other_suffixes_are_rejected(self, unit, text):
        assert "must be a whole number" in refusal(Setting("n", int, unit=unit), text)

    @pytest.mark.parametrize("text", ["36500d", "9999999999", "9" * 15 + "d"])
    def test_a_duration_that_timers_do_not_take_is_a_century(self, text):
        assert 36500 * 86400 == Setting("ttl", int, unit="seconds").convert(text)

    def test_the_minimum_holds(self):
        assert "at least 60" in refusal(Setting("ttl", int, unit="seconds", minimum=60), "59s")


class TestAListOfSections:
    @dataclass(frozen=True, kw_only=True)
    class Upstream:
        url: str = setting(MISSING, "Where it is.")
        ttl: int = setting(60, "How long.", unit="seconds")
        password: str | None = setting(None, "Its password.", secret=True)

    @dataclass(frozen=True, kw_only=True)
    class Declared:
        upstreams: tuple[TestAListOfSections.Upstream, ...] = setting((), "Where from.")
        hosts: Mapping[str, str] = setting(None, "Names.")

    @pytest.fixture
    def setting(self):
        return Setting("upstreams", list, section=self.Upstream)

    def test_is_read_item_by_item(self, setting):
        expected = (self.Upstream(url="a"), self.Upstream(url="b", ttl=3600))

        assert expected == setting.convert([{"url": "a"}, {"url": "b", "ttl": "1h", "password": None}])

    @pytest.mark.parametrize(
        ("message", "raw"),
        [
            ("must be a list of sections", "a"),
            ("must be a list of sections", ["a"]),
            ("lacks url (in item 1)", [{}]),
            ("has no setting uri (in item 2)", [{"url": "a"}, {"uri": "b"}]),
            (
                "is wrong in item 1: ttl must be a whole number of seconds, such as 3600 or 1h",
                [{"url": "a", "ttl": "s3cret"}],
            ),
        ],
    )
    def test_names_the_item_that_is_wrong(self, setting, message, raw):
        assert message == refusal(setting, raw)


class TestAMap:
    def test_keeps_texts_by_their_names(self):
        assert {"hub.example": "docker.io"} == Setting("hosts", dict).convert({"hub.example": "docker.io"})

    @pytest.mark.parametrize("raw", ["a", ["a"], {"a": ["b"]}])
    def test_holds_texts_only(self, raw):
        assert "must be a map of texts" == refusal(Setting("hosts", dict), raw)


class TestChoices:
    ROW = Setting("loglevel", choices=("debug", "info"))

    def test_upper_and_lower_case_are_the_same(self):
        assert "debug" == self.ROW.convert("DEBUG")

    def test_anything_else_is_rejected_with_the_choices(self):
        assert "must be one of debug, info" == refusal(self.ROW, "loud")


class TestList:
    ROW = Setting("groups", list)

    def test_stays_a_list(self):
        assert ("1", "two") == self.ROW.convert(["1", "two"])
        assert () == self.ROW.convert([])

    def test_comes_from_a_variable_with_commas(self):
        assert ("1", "two") == self.ROW.convert("1, two")
        assert ("1",) == self.ROW.convert("1")

    def test_comes_from_a_variable_as_yaml_writes_it(self):
        assert ("null", "1") == self.ROW.convert('["null", 1]')

    @pytest.mark.parametrize("raw", [{"a": "b"}, [["a"]], [{"a": "b"}], "[a", "[[a]]"])
    def test_holds_texts_only(self, raw):
        assert "must be a list of texts" == refusal(self.ROW, raw)


class TestPath:
    ROW = Setting("storage_path", Path)

    def test_is_made_absolute_where_the_server_is_started(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

        assert tmp_path / "registry-data" == self.ROW.convert("./registry-data")

    def test_knows_the_home_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))

        assert tmp_path / "tmp/test" == self.ROW.convert("~/tmp/test")

    def test_of_an_unknown_user_is_rejected(self):
        assert "begins with ~, but that user has no home folder" == refusal(self.ROW, "~no-such-user-here/x")

    def test_with_a_nul_is_rejected(self):
        assert "contains a NUL character" == refusal(self.ROW, "a\0b")


class TestARefusal:
    @pytest.mark.parametrize("raw", ["s3cret", ["s3cret", {}], {"s3cret": "s3cret"}])
    @pytest.mark.parametrize("setting", [Setting("x", bool), Setting("x", int), Setting("x", float), TestChoices.ROW])
    def test_never_shows_the_value_since_it_may_be_a_secret_in_the_wrong_place(self, setting, raw):
        assert "s3cret" not in refusal(setting, raw)

    @pytest.mark.parametrize(("kind", "raw"), [(list, "[s3cret"), (list, {"s3cret": "x"}), (Path, "~s3cret")])
    def test_of_a_list_or_a_path_does_not_show_it_either(self, kind, raw):
        assert "s3cret" not in refusal(Setting("x", kind), raw)


class TestARow:
    def test_has_a_type_that_can_be_read(self):
        with pytest.raises(TypeError, match="setting x: <class 'set'> is not a type of settings"):
            Setting("x", set)

    def test_reaches_a_constructor_under_a_keyword(self):
        assert "cloudfront_base" == Setting("cloudfront.base").keyword


@dataclass(frozen=True, kw_only=True)
class Section:
    host: str | None = setting(None, "Where it is.")
    ports: tuple[str, ...] = setting(("1",), "Which ones.")


@dataclass(frozen=True, kw_only=True)
class Declared:
    flavor: str = "not a setting"
    ttl: int = setting(60, "How long.", unit="seconds", minimum=1)
    key: str | None = setting(None, "Opens the door.", secret=True)
    section: Section = field(default_factory=Section)


class TestADeclaration:
    def test_has_a_row_for_every_setting_and_for_those_of_its_sections(self):
        assert [
            Setting("ttl", int, 60, "How long.", unit="seconds", minimum=1),
            Setting("key", str, None, "Opens the door.", secret=True),
            Setting("section.host", str, None, "Where it is."),
            Setting("section.ports", list, ("1",), "Which ones."),
        ] == list(settings_of(Declared))

    def test_may_have_lists_of_sections_and_maps(self):
        upstream = TestAListOfSections.Upstream

        assert [("upstreams", list, upstream), ("hosts", dict, None)] == [
            (setting.name, setting.type, setting.section) for setting in settings_of(TestAListOfSections.Declared)
        ]

    def test_is_filled_by_dotted_names_and_keeps_its_defaults(self):
        expected = Declared(flavor="dev", ttl=5, section=Section(host="h"))

        assert expected == fill(Declared, {"ttl": 5, "section.host": "h"}, flavor="dev")


class TestFlatten:
    def test_goes_into_sections_only(self):
        tree = {"cache": {"host": "h", "odd": "x"}, "other": {"host": "h"}, "plain": "p"}

        assert {"cache.host": "h", "cache.odd": "x", "other": {"host": "h"}, "plain": "p"} == dict(
            flatten(tree, ["cache.host", "plain"])
        )

    def test_an_empty_section_sets_nothing(self):
        assert [] == list(flatten({"cache": None}, ["cache.host"]))
