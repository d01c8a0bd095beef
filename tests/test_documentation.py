"""Each page runs: every ``python`` block of the README and of docs/**/*.md, in order, on real databases.

``docs/contributing.md`` says how such a page is written.
"""

import ast
import asyncio
import contextlib
import doctest
import gc
import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import asyncpg
import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine
from sybil import Example, Sybil
from sybil.parsers.myst import CodeBlockParser

from pages import ROOT, pages

CODE = re.compile(r"```python\n|code-block: python\n")
NEEDS = re.compile(r"<!-- needs: ([\w. ]+) -->\n")
IGNORED = re.compile(r"\s+")


def pages_that_run() -> Iterator[str]:
    """Those with code whose packages are there: a page may begin with ``<!-- needs: package package -->``."""
    for name in pages():
        text = (ROOT / name).read_text(encoding="utf-8")
        needs = NEEDS.match(text)
        if CODE.search(text) and (needs is None or all(find_spec(package) for package in needs[1].split())):
            yield name


class Page:
    """One page as a module: its blocks run one after the other, on one event loop."""

    def __init__(self, path: Path, module: ModuleType, runner: asyncio.Runner) -> None:
        parsers = [CodeBlockParser("python", self.run), CodeBlockParser("text", self.check)]
        self.document = Sybil(parsers).parse(path)
        self.module = module
        self.runner = runner
        self.end = 0
        """Where the block ends that ran last; -1: what it did has been compared."""
        self.printed = ""
        self.error: BaseException | None = None

    def run(self, example: Example) -> None:
        """Run a block. What it raises is raised here, unless the text block that follows shows it."""
        line = example.line + example.parsed.line_offset
        tree = compile(
            "\n" * line + example.parsed,
            example.path,
            "exec",
            ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST,
        )
        code = compile(tree, example.path, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        self.end, self.error = example.region.end, None
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            try:
                self.execute(code)
            except Exception as error:
                if not self.is_followed_by_text(example):
                    raise
                self.error = error
        self.printed = printed.getvalue()

    def execute(self, code: CodeType) -> None:
        names = vars(self.module)

        async def block() -> None:
            # Within the loop, too, when there is no await: what it makes may look for the loop.
            result: Any = eval(code, names)
            if result is not None:
                await result

        self.runner.run(block())

    def check(self, example: Example) -> None:
        """Compare a text block that directly follows a python block with what that printed and raised."""
        if not self.follows(example):
            return
        self.end = -1
        found = self.printed
        if self.error is not None:
            found += "".join(traceback.format_exception_only(self.error))
        wanted = example.parsed
        # One blank is as good as another: a long message is broken into lines where it suits the page.
        wanted, found = (IGNORED.sub(" ", text).strip() for text in (wanted, found))
        if not doctest.OutputChecker().check_output(wanted, found, doctest.ELLIPSIS):
            shown = f"{example.path}:{example.line} shows\n{wanted}\nbut it is\n{found}"
            raise AssertionError(shown) from self.error

    def is_followed_by_text(self, example: Example) -> bool:
        rest = example.document.text[example.region.end :]
        return re.match(r"\s*```text\n", rest) is not None

    def follows(self, example: Example) -> bool:
        return self.end >= 0 and not example.document.text[self.end : example.region.start].strip()


@pytest.fixture
def database_url(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A new, empty database of PostgreSQL, which is also what DATABASE_URL says."""
    name = f"docs_{os.getpid()}_{os.urandom(4).hex()}"

    async def execute(statement: str) -> None:
        connection = await asyncpg.connect(
            make_url(postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
        )
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    with asyncio.Runner() as runner:
        runner.run(execute(f"CREATE DATABASE {name}"))
    url = make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    monkeypatch.setenv("DATABASE_URL", url)
    yield url
    with asyncio.Runner() as runner:
        runner.run(execute(f"DROP DATABASE {name} WITH (FORCE)"))


# What a driver had begun to await when SQLAlchemy raised MissingGreenlet, which some pages show.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("name", list(pages_that_run()))
def test_page(
    name: str,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Every block runs, and every text block below one says what it prints and raises."""
    # pytest keeps what is logged, and with an error's traceback what that refers to.
    caplog.set_level(logging.CRITICAL, logger="sqlalchemy.pool")
    monkeypatch.chdir(tmp_path)
    module = ModuleType("page")
    # What looks for a class by the name of its module finds it.
    monkeypatch.setitem(sys.modules, "page", module)
    vars(module).update(postgres_url=database_url, sqlite_url=f"sqlite+aiosqlite:///{tmp_path}/page.db")
    with asyncio.Runner() as runner:
        page = Page(ROOT / name, module, runner)
        try:
            for example in page.document.examples():
                example.evaluate()
        finally:
            page.error = None
            runner.run(dispose(module))
            gc.collect()  # what it left to the collector is to be blamed on it


async def dispose(module: ModuleType) -> None:
    for value in list(vars(module).values()):
        if isinstance(value, AsyncEngine):
            await value.dispose()


def test_readme_shows_the_table() -> None:
    """What the README says of other libraries is the table that tests/peers holds."""
    table = (ROOT / "docs" / "_comparison_short.md").read_text(encoding="utf-8")
    assert table in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_law_is_linked_to_its_tests() -> None:
    """The page of guarantees links to each class that holds a law."""
    page = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    classes = [
        f"{{test}}`{path.name}::{name}`"
        for path in sorted((ROOT / "tests").glob("test_*.py"))
        for name in re.findall(r"^class (TestLaw\d\d\w*)", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert len({link.partition("Law")[2][:2] for link in classes}) == 29
    assert [link for link in classes if link not in page] == []
