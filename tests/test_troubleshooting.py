"""Whatever the package says when something is wrong stands on the page of troubleshooting."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import scoped_async

PACKAGE = Path(scoped_async.__file__).parent
PAGE = Path(__file__).parents[1] / "docs" / "troubleshooting.md"
SAYS = ("Error", "Warning", "warn", "fail", "add_note")
"""How what is called ends, when its first argument is a message."""
PIECE = 17
"""So long is a piece of a message that tells it from others."""
SHOWN = 24
"""So much of it stands on the page: what follows is the way out, which the page has in its own words."""


def messages() -> Iterator[tuple[str, list[str]]]:
    """The pieces of each message, between what is filled in."""
    for path in sorted(PACKAGE.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            said: ast.expr | None = None
            if isinstance(node, ast.Call) and node.args and name_of(node.func).endswith(SAYS):
                said = node.args[-1] if name_of(node.func) == "add_note" else node.args[0]
            elif isinstance(node, ast.Return):
                said = node.value
            for text in texts(said):
                pieces = pieces_of(text)
                if any(len(piece) >= PIECE for piece in pieces) and not pieces[0].startswith("SELECT"):
                    yield path.name, [piece for piece in pieces if len(piece) >= PIECE]


def name_of(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def texts(said: ast.expr | None) -> Iterator[ast.expr]:
    """What it may be; of two that are put together the first, by which one finds it."""
    if isinstance(said, ast.BinOp):
        yield from texts(said.left)
    elif isinstance(said, ast.IfExp):
        yield from texts(said.body)
        yield from texts(said.orelse)
    elif isinstance(said, ast.Constant | ast.JoinedStr):
        yield said


def pieces_of(text: ast.expr) -> list[str]:
    parts = text.values if isinstance(text, ast.JoinedStr) else [text]
    strings = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return [plain(string) for string in strings]


def plain(text: str) -> str:
    """Without line breaks and marks."""
    return " ".join(text.replace("`", "").split())


@pytest.mark.parametrize(("module", "pieces"), [*messages()])
def test_it_says_what_to_do(module: str, pieces: list[str]) -> None:
    """One piece of the message, at least, is there as it is."""
    page = plain(PAGE.read_text(encoding="utf-8"))
    assert any(re.split("[.;:] ", piece)[0][:SHOWN].strip(" ,:;.") in page for piece in pieces), pieces
