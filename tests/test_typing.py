"""The package as two type checkers see it, both at their strictest, with the SQLAlchemy that is installed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TYPED = Path(__file__).parent / "typed"
FILES = ["usage.py", "mistakes.py"]
Place = tuple[str, int]


def mypy(cache: Path) -> dict[Place, str]:
    options = ["--strict", "--config-file=", f"--cache-dir={cache}", "--output=json"]
    return {
        (Path(error["file"]).name, error["line"]): error["message"]
        for error in map(json.loads, run("mypy", *options))
        if error["severity"] == "error"
    }


def pyright() -> dict[Place, str]:
    report = json.loads("\n".join(run("pyright", "--outputjson", "--pythonpath", sys.executable)))
    return {
        (Path(error["file"]).name, error["range"]["start"]["line"] + 1): error["message"]
        for error in report["generalDiagnostics"]
        if error["severity"] == "error"
    }


def run(checker: str, *arguments: str) -> list[str]:
    """What a checker writes on our files; it finds the package where the tests find it."""
    command = [sys.executable, "-m", checker, *arguments, *FILES]
    done = subprocess.run(command, cwd=TYPED, capture_output=True, text=True)
    assert done.returncode == 1, f"{checker} broke down, or found no error:\n{done.stdout}{done.stderr}"
    return done.stdout.splitlines()


@pytest.fixture(params=["mypy", "pyright"])
def errors(request: pytest.FixtureRequest, tmp_path: Path) -> dict[Place, str]:
    return mypy(tmp_path) if request.param == "mypy" else pyright()


def test_right_code_is_accepted_and_each_mistake_is_refused(errors: dict[Place, str]) -> None:
    """Every signature of AsyncSession is there, unknown and refused names are not."""
    mistakes = {
        (name, number)
        for name in FILES
        for number, line in enumerate((TYPED / name).read_text().splitlines(), start=1)
        if line.endswith("# wrong")
    }
    unexpected = {place: message for place, message in errors.items() if place not in mistakes}
    assert unexpected == {}
    assert sorted(mistakes - errors.keys()) == [], "these are not refused"
