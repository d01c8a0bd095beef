"""Requests per second through uvicorn, each application in a server process of its own."""

import asyncio
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, process_time
from typing import Any

from .peers import installed
from .timing import Track, in_turn

_ROOT = Path(__file__).parents[1]
_GET = b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def measure(*, rounds: int, requests: int, connections: int, everybody: bool, track: Track) -> dict[str, Any]:
    """Let the servers take turns: requests per second, and per second of their CPU, p50 and p99."""
    peers = [peer for peer in installed() if everybody or peer.module in ("by_hand", "ours")]
    with ExitStack() as stack:
        ports: dict[str, int] = {}
        for peer in track(peers, description="Servers start"):
            ports[peer.title] = stack.enter_context(_server(peer.module))
        return asyncio.run(_measure(ports, rounds, requests, connections, track))


async def _measure(
    ports: dict[str, int], rounds: int, requests: int, connections: int, track: Track
) -> dict[str, Any]:
    rates: dict[str, list[float]] = {title: [] for title in ports}
    rates_by_cpu: dict[str, list[float]] = {title: [] for title in ports}
    latencies: dict[str, list[float]] = {title: [] for title in ports}
    for port in ports.values():
        await _load(port, requests // 4, connections)
    names = list(ports)
    for number in track(range(rounds), description="Requests"):
        for title in in_turn(names, number):
            cpu = await _cpu(ports[title])
            start = perf_counter()
            latencies[title] += await _load(ports[title], requests, connections)
            rates[title].append(requests / (perf_counter() - start))
            rates_by_cpu[title].append(requests / (await _cpu(ports[title]) - cpu))
    first = names[0]
    return {
        title: {
            "per second": median(rates[title]),
            "per second of CPU": median(rates_by_cpu[title]),
            "ratio": median(a / b for a, b in zip(rates[title], rates[first], strict=True)),
            "ratio of CPU": median(
                a / b for a, b in zip(rates_by_cpu[title], rates_by_cpu[first], strict=True)
            ),
            "p50": median(latencies[title]) * 1e3,
            "p99": quantiles(latencies[title], n=100)[98] * 1e3,
            "rounds": rounds,
        }
        for title in names
    }


async def _load(port: int, requests: int, connections: int) -> list[float]:
    """Send ``requests`` over ``connections`` that are kept; returns the seconds that each took."""
    left = iter(range(requests))

    async def client() -> list[float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        times: list[float] = []
        for _ in left:
            start = perf_counter()
            body = await _get(reader, writer, b"/")
            times.append(perf_counter() - start)
            assert body == b"1", body
        writer.close()
        await writer.wait_closed()
        return times

    return [time for times in await asyncio.gather(*(client() for _ in range(connections))) for time in times]


async def _get(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: bytes) -> bytes:
    writer.write(_GET % path)
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    assert head.startswith(b"HTTP/1.1 200"), head
    assert length is not None, head
    return await reader.readexactly(int(length[1]))


async def _cpu(port: int) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    seconds = float(await _get(reader, writer, b"/cpu"))
    writer.close()
    await writer.wait_closed()
    return seconds


@contextmanager
def _server(module: str) -> Iterator[int]:
    """A uvicorn process that serves the application of one peer: its port."""
    command = [sys.executable, "-m", "benchmarks.serving", module]
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline()
            if not port:
                raise RuntimeError(f"{' '.join(command)} ended before it listened; what it said stands above")
            yield int(port)
        finally:
            process.terminate()
            process.wait()


# -- the server process


def _serve(module: str) -> None:
    import uvicorn

    application = import_module(f"benchmarks.peers.{module}").application

    async def app(asgi: Any, receive: Any, send: Any) -> None:
        if asgi.get("path") != "/cpu":
            await application(asgi, receive, send)
            return
        body = str(process_time()).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    config = uvicorn.Config(app, port=0, log_level="error", loop="asyncio", http="h11", lifespan="on")
    server = uvicorn.Server(config)
    config.load()
    # asyncio turns Nagle's algorithm off for sockets that say that they are TCP, as uvicorn's own do.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    server.run(sockets=[listener])


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):  # Ctrl-C reaches every process of the terminal; the first one tells
        _serve(sys.argv[1])
