"""Every sentence of the specification that binds a registry is held by a test, and the documentation shows by which."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

TESTS = Path(__file__).parent.parent
SENTENCES = yaml.safe_load((TESTS / "conformance" / "sentences.yml").read_text())
PAGE = TESTS.parent / "docs" / "oci-conformance.md"

ROWS = [(section, row["says"], row["held"]) for section, rows in SENTENCES.items() for row in rows]


def render():
    """Write the table as the documentation shows it."""
    lines = []
    for section, rows in SENTENCES.items():
        lines += [f"### {section}", "", "| the specification says | held by |", "| --- | --- |"]
        lines += [f"| {row['says'].replace('|', '&#124;')} | {_shown(row['held'])} |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def _shown(held):
    return f"`{held}`" if "::" in held else held


def names(path):
    """Return the names of the tests in a file, as pytest writes them."""
    tree = ast.parse((TESTS / path).read_text())
    return {
        f"{node.name}::{test.name}"
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for test in node.body
        if isinstance(test, ast.FunctionDef)
    }


class TestTheSentencesOfTheSpecification:
    @pytest.mark.parametrize("held", sorted({held for _, _, held in ROWS if "::" in held}))
    def test_name_tests_that_are_there(self, held):
        path, _, test = held.partition("::")
        assert test in names(path)

    def test_stand_in_the_documentation(self):
        # On a difference: put what render() returns at the end of the page.
        assert PAGE.read_text().endswith(render())
