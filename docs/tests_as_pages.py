"""The role ``{test}`test_exit.py::TestLaw10` ``: a link to the source of a test, built as a page."""

import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole

TESTS = Path(__file__).parents[1] / "tests"
# Where a class, or a test outside of one, begins; with its decorators.
BEGINS = re.compile(r"^(?:@.*\n)*(?:class|def|async def) (\w+)", re.MULTILINE)


class Test(SphinxRole):
    """A class or function of a file under tests/, or a whole file."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        name, _, part = self.text.partition("::")
        path = TESTS / name
        if not path.is_file() or (part and part not in BEGINS.findall(path.read_text(encoding="utf-8"))):
            return [], [self.inliner.reporter.error(f"there is no test {self.text}", line=self.lineno)]
        up = "../" * self.env.docname.count("/")
        page = f"{up}tests/{name.removesuffix('.py')}.html" + (f"#{part}" if part else "")
        link = nodes.reference("", "", nodes.literal(part or name, part or name), refuri=page, internal=True)
        link["reftitle"] = f"tests/{self.text}"
        used(self.env.app).add(name)
        return [link], []


def used(app: Sphinx) -> set[str]:
    """The files that are linked to."""
    names: set[str] = app.env.__dict__.setdefault("tests_as_pages", set())
    return names


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    for name in sorted(used(app)):
        yield f"tests/{name.removesuffix('.py')}", {"title": f"tests/{name}", "body": body(name)}, "page.html"


def body(name: str) -> str:
    source = (TESTS / name).read_text(encoding="utf-8")
    starts = [0, *(match.start() for match in BEGINS.finditer(source)), len(source)]
    anchors = ["", *BEGINS.findall(source)]
    blocks = [
        f'<div class="highlight-python notranslate" id="{anchor or "top"}">'
        + highlight(source[start:end], PythonLexer(stripnl=True), HtmlFormatter(cssclass="highlight"))
        + "</div>"
        for anchor, start, end in zip(anchors, starts[:-1], starts[1:], strict=True)
    ]
    return f"<h1>tests/{escape(name)}</h1>\n" + "\n".join(blocks)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_role("test", Test())
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": False}
