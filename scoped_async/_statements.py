"""What a statement of SQL does to the transaction that it is sent in, which SQLAlchemy does not look at."""

import re
from collections.abc import Iterator
from enum import Enum


class Effect(Enum):
    """What becomes of the work before the statement."""

    SAVEPOINT = "savepoint"
    ROLLBACK_TO = "rollback_to"
    RELEASE = "release"
    ROLLBACK = "rollback"
    COMMIT = "commit"


_INERT = r"--[^\n]* | /\*.*?\*/ | '(?:[^']|'')*' | \$(\w*)\$.*?\$\1\$"
"""Comments and quoted text: what stands in them is sent, and not done."""
_EFFECT = r"""
    \s* (?:
        (?P<savepoint> SAVEPOINT \b)
        | (?P<rollback_to> ROLLBACK (?:\s+ (?:WORK|TRANSACTION))? \s+ TO (?:\s+ SAVEPOINT)? \b)
        | (?P<release> RELEASE (?:\s+ SAVEPOINT)? \b)
        | (?P<rollback> (?:ROLLBACK|ABORT) \b (?! \s+ PREPARED))
        | (?P<commit> (?:COMMIT|END) \b (?! \s+ PREPARED))
    )
    \s* (?P<name> "[^"]*" | \w*)
"""
_FLAGS = re.IGNORECASE | re.DOTALL | re.VERBOSE


def effects(sql: str) -> Iterator[tuple[Effect, str]]:
    """What the statements of ``sql`` do, in order, each with the name of its savepoint, if it has one."""
    parts = [sql]
    if any(mark in sql for mark in (";", "--", "/*")):
        parts = re.sub(_INERT, " ", sql, flags=_FLAGS).split(";")
    for part in parts:
        # Compiled when first asked for: most programs have no callbacks, and an import is to cost little.
        if (found := re.match(_EFFECT, part, _FLAGS)) is not None:
            name: str = found["name"]
            effect = next(each for each in Effect if found[each.value] is not None)
            yield effect, name.strip('"') if name.startswith('"') else name.lower()


def ends_transaction(sql: str) -> bool:
    """Whether ``sql`` ends the transaction, of which SQLAlchemy would not hear."""
    return any(effect in (Effect.ROLLBACK, Effect.COMMIT) for effect, _ in effects(sql))
