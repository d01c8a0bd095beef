"""The table of docs/comparison.md itself."""

import ast
from pathlib import Path

from cells import TABLE, rows
from libraries_installed import LIBRARIES

SHORT = TABLE.with_name("_comparison_short.md")


def test_every_row_has_its_test() -> None:
    """A row links to the test that holds each of its cells, and each such test has its row."""
    tests = {
        f"{{test}}`peers/{path.name}::{node.name}`"
        for path in Path(__file__).parent.glob("test_peers_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.AsyncFunctionDef) and node.args.args and node.args.args[0].arg == "bench"
    }
    _, _, *lines = rows(TABLE)
    assert {line[0][line[0].index("{test}") :] for line in lines} == tests


def test_every_library_has_its_column() -> None:
    """Those that are installed; of one that is different on older Pythons there is a column for each."""
    head, _, *lines = rows(TABLE)
    for library in LIBRARIES:
        assert len([text for text in head if text.startswith(library.title)]) == 1
    assert {len(line) for line in lines} == {len(head)}


def test_the_short_table_says_the_same() -> None:
    """What the README shows is a part of it, in the same words."""
    whole, short = (cells(path) for path in (TABLE, SHORT))
    assert short
    assert short.items() <= whole.items()


def cells(path: Path) -> dict[tuple[str, str], str]:
    """The text by the label of its row and the head of its column."""
    head, _, *lines = rows(path)
    return {
        (line[0].partition(" {test}")[0], column): text
        for line in lines
        for column, text in zip(head[1:], line[1:], strict=True)
    }
