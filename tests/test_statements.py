"""What a statement does to its transaction, as far as its text tells."""

import pytest

from scoped_async._statements import Effect, effects, ends_transaction

STATEMENTS: dict[str, list[tuple[Effect, str]]] = {
    "SELECT 1": [],
    "rollback": [(Effect.ROLLBACK, "")],
    "  -- all of it\n ABORT WORK;": [(Effect.ROLLBACK, "work")],
    "ROLLBACK/* not TO a */": [(Effect.ROLLBACK, "")],
    "ROLLBACK PREPARED 'a'": [],
    "COMMIT": [(Effect.COMMIT, "")],
    "END": [(Effect.COMMIT, "")],
    "COMMIT PREPARED 'a'": [],
    "COMMITMENT": [],
    "SAVEPOINT One": [(Effect.SAVEPOINT, "one")],
    'SAVEPOINT "One"': [(Effect.SAVEPOINT, "One")],
    "ROLLBACK TRANSACTION TO SAVEPOINT one": [(Effect.ROLLBACK_TO, "one")],
    "ROLLBACK /* back */ TO one": [(Effect.ROLLBACK_TO, "one")],
    "RELEASE one": [(Effect.RELEASE, "one")],
    "release savepoint one;": [(Effect.RELEASE, "one")],
    "SELECT '; ROLLBACK', $$; COMMIT$$, $a$; COMMIT $$ $a$": [],
    "SELECT 'it''s'; ROLLBACK; BEGIN": [(Effect.ROLLBACK, ""), (Effect.BEGIN, "")],
    "BEGIN": [(Effect.BEGIN, "")],
    "start transaction read only": [(Effect.BEGIN, "read")],
    "SAVEPOINT a$1": [(Effect.SAVEPOINT, "a$1")],
    'SAVEPOINT "a;1"': [(Effect.SAVEPOINT, "a;1")],
    "SELECT E'it\\'s; ROLLBACK'; SELECT 1": [],
    "SELECT E'it\\'s'; ROLLBACK TO a; SELECT 'x'": [(Effect.ROLLBACK_TO, "a")],
    "SELECT 1 AS \"it's\"; ROLLBACK TO a; SELECT 'x'": [(Effect.ROLLBACK_TO, "a")],
    'SELECT 1 AS "a; ROLLBACK"': [],
    "/* a /* b */; ROLLBACK; */ SELECT 1": [],
    "/* a /* b */ c */ ROLLBACK TO a": [(Effect.ROLLBACK_TO, "a")],
    "SELECT 1; /* never closed; ROLLBACK": [],
    "SELECT 1; 'never closed; ROLLBACK": [],
    "SELECT 1; $$never closed; ROLLBACK": [],
    "SELECT $1; ROLLBACK": [(Effect.ROLLBACK, "")],
    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END": [],
    "CREATE TRIGGER t AFTER INSERT ON a BEGIN UPDATE b SET c = 1; END": [],
    "CREATE TABLE begins (a int); ROLLBACK": [(Effect.ROLLBACK, "")],
    "SAVEPOINT a; INSERT INTO t VALUES (1); ROLLBACK TO a": [
        (Effect.SAVEPOINT, "a"),
        (Effect.ROLLBACK_TO, "a"),
    ],
}


@pytest.mark.parametrize("sql", STATEMENTS)
def test_what_it_does(sql: str) -> None:
    assert list(effects(sql)) == STATEMENTS[sql]


@pytest.mark.parametrize("sql", STATEMENTS)
def test_whether_it_ends_the_transaction(sql: str) -> None:
    ends = any(effect in (Effect.ROLLBACK, Effect.COMMIT) for effect, _ in STATEMENTS[sql])
    assert ends_transaction(sql) is ends
