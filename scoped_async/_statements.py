"""What a statement of SQL does to the transaction that it is sent in, which SQLAlchemy does not look at."""

import re
from collections.abc import Iterator
from enum import Enum


class Effect(Enum):
    """What becomes of the work before the statement."""

    BEGIN = "begin"
    SAVEPOINT = "savepoint"
    ROLLBACK_TO = "rollback_to"
    RELEASE = "release"
    ROLLBACK = "rollback"
    COMMIT = "commit"


ENDS = (Effect.ROLLBACK, Effect.COMMIT)
"""Those that end the transaction."""


_MARK = r"""; | -- | /\* | " | \b[eE]' | ' | \$ (?:[^\W\d]\w*)? \$"""
_REST = {
    "--": r"[^\n]*+",
    '"': r'[^"]*+"',
    "'": r"(?:[^']++|'')*+'",
    "e'": r"(?:[^'\\]++|\\.|'')*+'",
}
_EFFECT = r"""
    \s* (?:
        (?P<begin> (?:BEGIN|START \s+ TRANSACTION) \b)
        | (?P<savepoint> SAVEPOINT \b)
        | (?P<rollback_to> ROLLBACK (?:\s+ (?:WORK|TRANSACTION))? \s+ TO (?:\s+ SAVEPOINT)? \b)
        | (?P<release> RELEASE (?:\s+ SAVEPOINT)? \b)
        | (?P<rollback> (?:ROLLBACK|ABORT) \b (?! \s+ PREPARED))
        | (?P<commit> (?:COMMIT|END) \b (?! \s+ PREPARED))
    )
    \s* (?P<name> "[^"]*" | [\w$]*)
"""
_HAS_BODY = r"\s* CREATE \b .* \b BEGIN \b"
_FLAGS = re.IGNORECASE | re.DOTALL | re.VERBOSE


def effects(sql: str) -> Iterator[tuple[Effect, str]]:
    """What the statements of ``sql`` do, in order, each with the name of its savepoint, if it has one."""
    for statement in _statements(sql) if any(mark in sql for mark in (";", "--", "/*")) else (sql,):
        # Compiled when first asked for: most programs have no callbacks, and an import is to cost little.
        if (found := re.match(_EFFECT, statement, _FLAGS)) is not None:
            name: str = found["name"]
            effect = next(each for each in Effect if found[each.value] is not None)
            yield effect, name.strip('"') if name.startswith('"') else name.lower()
        elif re.match(_HAS_BODY, statement, _FLAGS) is not None:  # whose statements are not done now
            return


def ends_transaction(sql: str) -> bool:
    """Whether ``sql`` ends the transaction, of which SQLAlchemy would not hear."""
    return any(effect in ENDS for effect, _ in effects(sql))


def _statements(sql: str) -> Iterator[str]:
    """Each without comments and quoted text, which is sent and not done."""
    marks, kept, position = re.compile(_MARK, re.VERBOSE), list[str](), 0
    while (found := marks.search(sql, position)) is not None:
        mark, start = found.group(), found.start()
        kept.append(sql[position:start])
        position = found.end()
        if mark == ";":
            yield "".join(kept)
            kept = []
        else:
            position = _end_of(sql, mark.lower(), position)
            kept.append(sql[start:position] if mark == '"' else " ")
    yield "".join([*kept, sql[position:]])


def _end_of(sql: str, mark: str, position: int) -> int:
    """Where what ``mark`` has begun before ``position`` ends."""
    if mark.startswith("$"):
        end = sql.find(mark, position)
        return end + len(mark) if end >= 0 else len(sql)
    if mark == "/*":
        depth = 1
        for found in re.compile(r"/\*|\*/").finditer(sql, position):
            depth += 1 if found.group() == "/*" else -1
            if depth == 0:
                return found.end()
        return len(sql)
    rest = re.compile(_REST[mark], re.DOTALL).match(sql, position)
    return len(sql) if rest is None else rest.end()
