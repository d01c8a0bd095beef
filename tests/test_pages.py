"""What a page shows is all that its reader needs: no block uses a name that only a hidden one has."""

import ast
import builtins
import re

import pytest

from pages import ROOT, pages

BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
INVISIBLE = re.compile(r"^<!---.*?^--->", re.DOTALL | re.MULTILINE)
TAKEN_FOR_GIVEN = {"README.md": {"engine", "User"}, "docs/index.md": {"engine", "User"}}
"""What these say in words."""


def names(tree: ast.AST) -> tuple[set[str], set[str]]:
    """Those that the code binds, anywhere in it, and those that it reads."""
    bound, read = set(), set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id, ast.Load()):
                read.add(id)
            case ast.Name(id) | ast.arg(id) | ast.ExceptHandler(_, str(id)):
                bound.add(id)
            case ast.FunctionDef(id) | ast.AsyncFunctionDef(id) | ast.ClassDef(id):
                bound.add(id)
            case ast.alias(name, alias):
                bound.add(alias or name.partition(".")[0])
            case _:
                pass
    return bound, read


@pytest.mark.parametrize("page", [*pages()])
def test_what_a_block_uses_is_shown_above_it(page: str) -> None:
    shown = {*dir(builtins), *TAKEN_FOR_GIVEN.get(page, ())}
    text = INVISIBLE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    for block in BLOCK.findall(text):
        bound, read = names(compile(block, page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST))
        assert read <= shown | bound, (sorted(read - shown - bound), block)
        shown |= bound
