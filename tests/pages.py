"""The pages: the README and what stands in docs/."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def pages() -> Iterator[str]:
    """Each by its path from the root, but for what is built, and what belongs to the examples."""
    for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]:
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(("docs/_build/", "docs/examples/")):
            yield name
