"""PostgreSQL for the stack: a cluster in its folder, one user, one database, loopback only."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from skyfold.errors import ConfigError

if TYPE_CHECKING:
    from flows.stack import Stack

USER = "skyfold"
FOLDER = "SKYFOLD_POSTGRES"  # in a stack's environment: where its database lies


def _program(name: str) -> str | None:
    """A program of PostgreSQL; Debian keeps them off the path."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return shutil.which(name) or next((str(p / name) for p in places if (p / name).exists()), None)


def is_installed() -> bool:
    """Whether there is a server, the driver, and a user who may run it."""
    programs = [_program(name) for name in ("initdb", "postgres")]
    return all(programs) and find_spec("asyncpg") is not None and bool(_owner())


def _owner() -> str:
    """User who runs the server, which refuses root."""
    if os.geteuid():
        return pwd.getpwuid(os.geteuid()).pw_name
    known = {one.pw_name for one in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in known), "")


def start(stack: Stack) -> str:
    """Start a server; connection URL, password included.

    Raises
    ------
    ConfigError
        If a cluster cannot be made.
    """
    from flows.stack import HOST, free_port, listens, wait_for

    password, port = secrets.token_hex(16), free_port()
    folder = Path(tempfile.mkdtemp(prefix="skyfold-postgres-"))  # root's folders are closed to it
    stack.environment[FOLDER] = str(folder)
    (folder / "password").write_text(password)
    for path in (folder, folder / "password"):
        shutil.chown(path, _owner())
    data = str(folder / "data")
    auth = ["--auth=scram-sha-256", f"--pwfile={folder / 'password'}", "--no-sync", "-E", "UTF8"]
    made = _run(["initdb", "-D", data, "-U", USER, *auth])
    (folder / "password").unlink()
    if made.returncode:
        raise ConfigError(f"initdb failed: {made.stderr.strip()[-300:]}")
    where = ["-h", HOST, "-p", str(port), "-k", str(folder)]
    stack.start("postgres", _as_owner(["postgres", "-D", data, *where]))
    wait_for(lambda: listens(port), "PostgreSQL", stack.folder / "postgres.log")
    return f"postgresql+asyncpg://{USER}:{password}@{HOST}:{port}/postgres"


def _as_owner(command: list[str]) -> list[str]:
    command = [_program(command[0]) or command[0], *command[1:]]
    if os.geteuid():
        return command
    return ["setpriv", f"--reuid={_owner()}", f"--regid={_group()}", "--clear-groups", *command]


def _group() -> str:
    return str(pwd.getpwnam(_owner()).pw_gid)


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_as_owner(command), capture_output=True, text=True, check=False, cwd="/")
