"""The house: which module may import which, read from the imports themselves."""

import ast
import sys
from pathlib import Path

import pytest

import scoped_async

PACKAGE = Path(scoped_async.__file__).parent

FLOORS = [
    {"_proxy", "_running", "_statements", "_upload", "exceptions"},  # stand on nothing of ours
    {"_budget", "_cleanup", "_names"},
    {
        "_callbacks",
        "_database_errors",
        "_held",
    },  # what is called back; what a scope holds
    {"_clone", "_database", "_frame"},  # what is current
    {"_checks", "_decorate", "_failures", "_outcome", "_stand_in"},  # what may be done; how work ends
    {"_ending", "_heard", "_line", "_work"},
    {"_watched"},
    {"_transaction"},
    {"_commit"},
    {"_session"},
    {"_exit", "_guarded", "_recorder", "_registry", "_resource"},
    {"_delegates", "_scope"},
    {"_answer", "_block", "_leaks", "session"},
    {"_isolation", "_nested"},
    {"_propagation"},
    {"_policy"},
    {"aiohttp", "asgi", "faststream", "grpc", "taskiq", "tasks", "testing"},
    {"__init__", "pytest_plugin"},  # what users import
]
"""From the ground up. A module imports from the floors below its own, and from no other."""

OTHERS = {
    "aiohttp": {"aiohttp"},
    "anyio": {"_cleanup", "tasks"},
    "faststream": {"faststream"},
    "grpc": {"_upload", "grpc"},
    "pytest": {"pytest_plugin"},
    "pytest_asyncio": {"pytest_plugin"},
    "sqlalchemy": {
        "_clone", "_commit", "_database", "_database_errors", "_delegates", "_failures", "_guarded",
        "_heard", "_isolation", "_leaks", "_line", "_names", "_recorder", "_registry",
        "_session", "_stand_in", "_transaction", "_watched", "session",
    },
    "taskiq": {"taskiq"},
}  # fmt: skip
"""Which modules know which packages of others. A scope, a block and a resource know none."""

MODULES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def imports(tree: ast.Module) -> tuple[set[str], set[str]]:
    """The modules of the package that one imports, and the packages of others."""
    ours, others = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            others |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module is not None
            others.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1, "the package is flat"
            ours |= {node.module} if node.module else {alias.name for alias in node.names}
    assert "scoped_async" not in others, "imports within the package are relative"
    return ours, others - sys.stdlib_module_names


class TestTheFloors:
    """Arrows go down only, and siblings on a floor do not import each other."""

    def test_every_module_has_its_place(self) -> None:
        assert sorted(name for floor in FLOORS for name in floor) == sorted(MODULES)

    @pytest.mark.parametrize("name", sorted(MODULES))
    def test_a_module_imports_from_the_floors_below_its_own(self, name: str) -> None:
        level = next(level for level, floor in enumerate(FLOORS) if name in floor)
        below = {module for floor in FLOORS[:level] for module in floor}
        assert imports(MODULES[name])[0] <= below

    def test_few_modules_know_the_packages_of_others(self) -> None:
        users: dict[str, set[str]] = {}
        for name, tree in MODULES.items():
            for package in imports(tree)[1]:
                users.setdefault(package, set()).add(name)
        assert users == OTHERS


class TestTheHouse:
    """What every module and the whole package keep to."""

    @pytest.mark.parametrize("name", sorted(MODULES))
    def test_a_module_says_its_one_job_in_the_first_line_of_its_docstring(self, name: str) -> None:
        docstring = ast.get_docstring(MODULES[name])
        assert docstring
        assert docstring.splitlines()[0].endswith(".")

    def test_there_is_one_context_variable(self) -> None:
        made = [
            name
            for name, tree in MODULES.items()
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ContextVar"
        ]
        assert made == ["_frame"]

    def test_the_public_names_are_sorted_and_all_there(self) -> None:
        assert scoped_async.__all__ == sorted(scoped_async.__all__)
        assert all(hasattr(scoped_async, name) for name in scoped_async.__all__)

    def test_the_marker_of_a_typed_package_is_shipped(self) -> None:
        assert (PACKAGE / "py.typed").exists()
