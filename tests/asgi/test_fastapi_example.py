"""docs/examples/fastapi_app.py: it starts with one command, does what it says, and its OpenAPI is fuzzed."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from runpy import run_path
from signal import SIGINT
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from postgres import free_port
from servers import by_uvicorn

FUZZING = [
    "--checks=not_a_server_error,status_code_conformance,response_schema_conformance",
    "--phases=examples,coverage,fuzzing",
    "--max-examples=5",
    "--seed=1",
    "--generation-database=none",
    "--suppress-health-check=all",
    "--no-color",
]
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "fastapi_app.py"


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without the example's tables."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}"
    url: str = request.getfixturevalue("postgres_url")
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE IF EXISTS example_account, example_receipt"))
    await engine.dispose()
    return url


@asynccontextmanager
async def served(url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[str, Any]]:
    """The address of the example, and its application; no connection may be out at the end."""
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    app = run_path(str(EXAMPLE))["create_app"](url)
    async with by_uvicorn(app) as address:
        yield address, app
        assert app.state.engine.pool.checkedout() == 0


async def test_what_it_does(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(url, monkeypatch) as (address, _), httpx.AsyncClient(base_url=address) as client:
        for owner in ("Ada", "Grace"):
            created = await client.post("/accounts", json={"owner": owner, "balance": 100})
            assert created.status_code == 201
        again = await client.post("/accounts", json={"owner": "Ada"})
        assert (again.status_code, again.json()) == (
            409,
            {"detail": "That is against the rules of the ledger."},
        )

        order = {"payer_id": 1, "payee_id": 2, "amount": 30}
        ids = [account["id"] for account in (await client.get("/accounts")).json()]
        order |= {"payer_id": ids[0], "payee_id": ids[1]}
        assert (await client.post("/transfers", json=order)).json()["balance"] == 70
        # The endpoint has returned a 200 by the time that the database refuses this one, in the commit.
        assert (await client.post("/transfers", json=order | {"amount": 500})).status_code == 409
        assert (await client.post("/transfers", json=order | {"payee_id": 999})).status_code == 404

        assert (await client.get(f"/accounts/{ids[1]}")).json()["balance"] == 130
        assert (await client.get("/accounts/999")).status_code == 404
        assert [account["owner"] for account in (await client.get("/accounts?limit=1")).json()] == ["Ada"]
        assert (await client.get("/export")).text == "owner,balance\nAda,70\nGrace,130\n"
        assert (await client.get("/report")).json() == {"accounts": 2, "money": 200, "receipts": 1}


async def test_its_openapi_fuzzed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """schemathesis asks what the schema allows, and what it does not: no 5xx, and no answer untold."""
    async with served(url, monkeypatch) as (address, _):
        command = ["schemathesis.cli", "run", f"{address}/openapi.json", *FUZZING]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()


async def test_it_starts_with_one_command() -> None:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, EXAMPLE, f"--port={port}", stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    lines: list[str] = []
    while "Uvicorn running on" not in "".join(lines):
        lines.append((await process.stderr.readline()).decode())
        assert lines[-1], "".join(lines)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        assert (await client.get("/accounts")).json() == []
    process.send_signal(SIGINT)
    await process.communicate()
    assert process.returncode == 0
