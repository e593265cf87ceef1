"""Large JSON objects, read part by part."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docker_registry.registry import json_scanner
from docker_registry.registry.json_scanner import Kind, TooComplex, scan

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


class Counted(str):
    """
    A text that counts what a parser does with it, as its time is proportional to that.

    A string is parsed from the text itself, which is not counted; it takes a nanosecond per character.

    Attributes:
        characters: the number of characters copied or searched.
        values: the number of values in the copies, which are parsed.
    """

    characters = 0
    values = 0

    def __getitem__(self, key):
        found = super().__getitem__(key)
        self.characters += len(found)
        self.values += json_scanner.count_values(found.encode())
        return found

    def count(self, mark, start, end):
        self.characters += min(end, len(self)) - start
        return super().count(mark, start, end)

    def rfind(self, mark, start, end):
        found = super().rfind(mark, start, end)
        self.characters += min(end, len(self)) - max(found, start)
        return found


def assembled(text):
    """Put the parts of a document together again."""
    document = {}
    for key, kind, name, value in scan(text):
        if kind is Kind.VALUE:
            document[key] = value
        elif kind is Kind.ITEM and isinstance(document[key], list):
            document[key].append(value)
        elif kind is Kind.ITEM:
            document[key][name] = value
        else:
            document[key] = [] if kind is Kind.LIST else {}
    return document


class TestADocument:
    @settings(max_examples=50, deadline=None)
    @given(st.dictionaries(st.text(), VALUES, max_size=4), st.sampled_from([None, 1]), st.booleans())
    def test_equals_the_result_of_pythons_parser(self, document, indent, ensure_ascii):
        text = json.dumps(document, indent=indent, ensure_ascii=ensure_ascii)
        assert document == assembled(text)

    @pytest.mark.parametrize(
        "items",
        [
            [{"a": "},{", "b": {"c": number}, "d": "]"} for number in range(5000)],
            [["],", number] for number in range(5000)],
            [f'"{number}",' for number in range(5000)],
            list(range(30_000)),
            [{"digest": "x"}, "y", 1, [{}], None] * 3000,
            [10**4000, 1.5],
        ],
        ids=["objects", "lists", "texts", "numbers", "mixed", "a long number"],
    )
    def test_may_have_long_lists(self, items):
        document = {"before": items, "list": items, "object": {str(at): item for at, item in enumerate(items)}, "z": 1}
        assert document == assembled(json.dumps(document, separators=(",", ":")))

    def test_has_the_last_of_equal_keys(self):
        assert {"a": [3]} == assembled('{"a": [1, 2], "a": {"b": 1}, "a": [3]}')

    @given(st.text(alphabet='{}[]",:1e-.tn\\ x', max_size=12))
    def test_that_is_not_json_is_rejected(self, text):
        try:
            expected = json.loads(text, parse_constant=json_scanner.reject_constant)
        except ValueError:
            expected = None
        if isinstance(expected, dict):
            assert expected == assembled(text)
        else:
            with pytest.raises(ValueError):
                assembled(text)

    @pytest.mark.parametrize("inner", ["[" + "[]," * 30_000 + "[]]", json.dumps({str(n): 1 for n in range(30_000)})])
    def test_with_a_part_of_too_many_values_is_rejected(self, inner):
        assert 1 == len(assembled(f'{{"a": {inner}}}'))
        with pytest.raises(TooComplex):
            assembled(f'{{"a": [{inner}]}}')

    def test_is_parsed_in_short_slices(self):
        objects = json.dumps([{f"{number:06}": ""} for number in range(9_000)])
        text = Counted(
            f'{{"a": [{objects}], "b": [{"[]," * 50_000}[]], "c": [{"{}," * 50_000} 1], "d": "{"," * 500_000}"}}'
        )
        most = 0
        for _ in scan(text):
            most, text.values = max(most, text.values), 0
        assert 40_000 > most > 18_000

    def test_is_scanned_in_linear_time(self):
        in_strings = '{"a": "' + "},{" * 25 + '"},'
        in_objects = '{"a": {"b": 1}, "c": "},},},},},},},},"},'
        for item in (in_strings, in_objects):  # where a window of the text ends, so that it is no list of items
            text = Counted(f'{{"x": [{item * 5_000} 1]}}')
            assembled(text)
            assert 6 * len(text) > text.characters
