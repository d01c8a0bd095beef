"""How Sphinx builds these pages: ``sphinx-build -W -b html docs docs/_build/html``, offline."""

import sys
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

import scoped_async
from scoped_async import pytest_plugin
from scoped_async._names import NAMES, REFUSED

here = Path(__file__).parent
sys.path.insert(0, str(here))

project = "scoped_async"
author = "scoped_async contributors"
copyright = "scoped_async contributors"
release = version = scoped_async.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "sphinx_design",
    "tests_as_pages",
]
exclude_patterns = ["_build", "_*.md", "examples"]
nitpicky = False
default_role = "py:obj"

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist", "substitution"]
myst_heading_anchors = 3

# What the last full run of the benchmarks has written down, as far as there was one.
benchmarks = here.parent / "benchmarks"
bars = (benchmarks / "README.md").read_text(encoding="utf-8")
bars = (
    bars.partition("<!-- written by python -m benchmarks -->")[2].partition("<!-- until here -->")[0].strip()
)
captions = {
    "cost_per_scope.svg": "One unit of work, by library",
    "cost_per_task.svg": "Time per task against the number of tasks at once",
    "requests.svg": "Requests through uvicorn, by library",
}
charts = [
    f"```{{figure}} ../benchmarks/results/{name}\n:class: chart\n:alt: {caption}\n\n{caption}\n```"
    for name, caption in captions.items()
    if (benchmarks / "results" / name).is_file()
]
KINDS = {
    "coroutine methods, one at a time": ("OPERATION", "STREAM", "DRIVER"),
    "coroutine methods that end the transaction": ("ENDING",),
    "methods that return an async context manager": ("TRANSACTION",),
    "methods": ("METHOD",),
    "attributes": ("ATTRIBUTE",),
    "attributes that may be assigned to": ("WRITABLE",),
}


def listed(kinds: tuple[str, ...]) -> str:
    """The names of these kinds, each with the version that brought it when that is newer than the floor."""
    return ", ".join(
        f"{{py:obj}}`{name} <sqlalchemy.ext.asyncio.AsyncSession.{name}>`"
        + (f" ({line.since[0]}.{line.since[1]})" if line.since > (2, 0) else "")
        for name, line in NAMES.items()
        if line.kind.name in kinds
    )


def inline(docstring: str | None) -> str:
    """A docstring of this package as Markdown in one line."""
    said = (docstring or "").partition("\n\n    .. versionadded::")[0]
    return " ".join(said.replace("``", "`").split())


myst_substitutions = {
    "names": "\n".join(f"- {what}: {listed(kinds)}" for what, kinds in KINDS.items()),
    "refused": ", ".join(f"`{name}`" for name in REFUSED),
    "protocols": "\n\n".join(
        f"```{{eval-rst}}\n.. auto{kind}:: scoped_async.{name}\n```"
        for kind, name in {"function": "aiohttp.scope_middleware", "class": "grpc.ScopeInterceptor"}.items()
        if (Path(scoped_async.__file__).with_name(f"{name.partition('.')[0]}.py")).is_file()
    ),
    "scoped_isolation": inline(pytest_plugin.scoped_isolation.__doc__),
    "scoped_async_sessions": inline(pytest_plugin.scoped_async_sessions.__doc__),
    "measured": f"## What was measured\n\nRatios, with the two numbers behind them; bold: not met.\n\n{bars}"
    if bars
    else "No full run is written down yet.",
    "charts": "\n\n".join(charts) or "Its charts will stand here.",
}

autodoc_default_options = {"member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True

# Kept in the repository, filtered to the names in use, so that a build needs no network.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", str(here / "_inventories" / "python.inv")),
    "sqlalchemy": ("https://docs.sqlalchemy.org/en/21", str(here / "_inventories" / "sqlalchemy.inv")),
    "anyio": ("https://anyio.readthedocs.io/en/stable", str(here / "_inventories" / "anyio.inv")),
}

html_theme = "furo"
html_title = f"scoped_async {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
copybutton_exclude = ".linenos, .gp, .go"


def find_where_it_is_public(
    app: Sphinx, env: object, node: pending_xref, contnode: nodes.TextElement
) -> nodes.Node | None:
    """Types say ``scoped_async._scope.Scope``; the reference has it as ``scoped_async.Scope``."""
    package, _, name = node.get("reftarget", "").partition("._")
    if package != "scoped_async" or "." not in name:
        return None
    target = f"scoped_async.{name.partition('.')[2]}"
    domain = app.env.domains.python_domain
    document = node.get("refdoc", "index")
    return domain.resolve_xref(app.env, document, app.builder, "obj", target, node, contnode)


def setup(app: Sphinx) -> None:
    app.connect("missing-reference", find_where_it_is_public)
