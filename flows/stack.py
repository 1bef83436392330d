"""The whole house as processes here: what ``deploy/compose.yaml`` describes as containers.

::

    Prefect server on PostgreSQL   (SQLite where PostgreSQL is not installed)
    Prefect worker                 of the work pool `skyfold`
    Dask scheduler and workers     one thread and 2 GB each
    S3 server                      Ceph RADOS Gateway, or moto where that is not installed

Everything listens on loopback, and keeps its state, logs and process ids in one folder. Keys and
passwords are drawn anew, travel in the environment, and stand in files that only their owner reads.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flows import ceph, postgres
from skyfold.errors import ConfigError

HOST = "127.0.0.1"
BUCKET = "skyfold"
HOME = Path(__file__).resolve().parents[1]
STATE = "stack.json"
SECRETS = "environment"
STARTING = 180.0  # seconds that a server may take
STOPPING = 20.0
MEMORY = "2GB"


@dataclass
class Stack:
    """Processes in a folder.

    Attributes
    ----------
    folder : Path
        State, logs, process ids.
    pids : dict
        Leaders of process groups, by name, in the order in which they were started.
    environment : dict
        What a producer's shell needs; secrets among it.
    reader : dict
        Keys of a consumer, who may only read.
    commands : dict
        What each process was started with: its command, and what its environment has beside.
    """

    folder: Path
    pids: dict[str, int] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    reader: dict[str, str] = field(default_factory=dict)
    commands: dict[str, tuple[list[str], dict[str, str]]] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Stack:
        """Stack that was started before; ConfigError if there is none."""
        try:
            state = json.loads((folder / STATE).read_text())
        except FileNotFoundError:
            raise ConfigError(f"no stack in {folder}; start one with `make stack`") from None
        return cls(folder, **state)

    def save(self) -> None:
        """Keep what `load` needs, and the environment as a file for shells."""
        kept = ("pids", "environment", "reader", "commands")
        state = {name: getattr(self, name) for name in kept}
        _write_private(self.folder / STATE, json.dumps(state, indent=1))
        lines = [f"export {name}={value}\n" for name, value in self.environment.items()]
        _write_private(self.folder / SECRETS, "".join(lines))

    def start(self, name: str, command: list[str], **more: str) -> int:
        """Start a process in a group of its own, its output in a log; its id."""
        log = (self.folder / f"{name}.log").open("ab")
        with log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=os.environ | self.environment | more,
                cwd=HOME,
                start_new_session=True,
            )
        self.pids[name] = process.pid
        self.commands[name] = (command, more)
        self.save()
        return process.pid

    def restart(self, name: str) -> None:
        """Kill a process as a dying machine would, and start it again as it was."""
        self.kill(name, signal.SIGKILL)
        command, more = self.commands[name]
        self.start(name, command, **more)

    def is_alive(self, name: str) -> bool:
        """Whether a process of the stack runs."""
        return name in self.pids and _runs(self.pids[name])

    def kill(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal to a process group, and wait until it is gone."""
        pid = self.pids[name]
        deadline = time.monotonic() + STOPPING
        while _runs(pid):
            late = time.monotonic() > deadline
            try:
                os.killpg(pid, signal.SIGKILL if late else how)
            except (ProcessLookupError, PermissionError):
                break
            time.sleep(0.2)

    def stop(self) -> None:
        """Stop everything, the last started first; the database, which lies elsewhere, goes too."""
        for name in reversed(list(self.pids)):
            self.kill(name)
        if database := self.environment.get(postgres.FOLDER):
            shutil.rmtree(database, ignore_errors=True)
        self.pids.clear()
        self.save()


def _write_private(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def _runs(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # one of ours, which would stay a zombie
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def wait_for(ready: Callable[[], bool], what: str, log: Path) -> None:
    """Wait until a server answers.

    Raises
    ------
    ConfigError
        If it does not within `STARTING` seconds; with the last line of its log.
    """
    deadline = time.monotonic() + STARTING
    while time.monotonic() < deadline:
        if ready():
            return
        time.sleep(0.2)
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    last = lines[-1] if lines else "nothing"
    raise ConfigError(f"{what} did not start in {STARTING:.0f} s; {log} ends with: {last}")


def answers(url: str) -> bool:
    """Whether a web server answers at all."""
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def listens(port: int) -> bool:
    """Whether somebody listens on a port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def up(folder: Path, *, workers: int = 2, port: int = 4200, say: Callable[[str], None]) -> Stack:
    """Start everything, and wait until it answers.

    Parameters
    ----------
    folder : Path
        Made anew if nothing in it runs.
    workers : int
        Dask workers, one thread each.
    port : int
        Of the Prefect server; 0 means any.
    say : callable
        Called with a line about each part.

    Raises
    ------
    ConfigError
        If it runs already, or a part does not start.
    """
    if (folder / STATE).exists() and any(map(_runs, Stack.load(folder).pids.values())):
        raise ConfigError(f"the stack in {folder} runs already; stop it with `make stack-down`")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    stack = Stack(folder.resolve())
    stack.environment |= {
        "PREFECT_HOME": str(stack.folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "DASK_CONFIG": str(HOME / "deploy/dask.yaml"),
        "OMP_NUM_THREADS": "1",  # cores belong to the workers, one each
        "ZARR_THREADING__MAX_WORKERS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    try:
        say(start_s3(stack))
        say(start_prefect(stack, port or free_port()))
        say(start_dask(stack, workers))
        say(start_worker(stack))
    except BaseException:
        stack.stop()
        raise
    return stack


def start_s3(stack: Stack) -> str:
    """S3 server with a producer, a consumer and a bucket; what was started."""
    for one in (stack.environment, stack.reader):
        one["AWS_ACCESS_KEY_ID"] = secrets.token_hex(10)
        one["AWS_SECRET_ACCESS_KEY"] = secrets.token_hex(20)
        one["AWS_DEFAULT_REGION"] = "us-east-1"
    port = free_port()
    url = f"http://{HOST}:{port}"
    real = ceph.is_installed()
    if real:
        ceph.start(stack, port)
    else:
        moto = f"from moto.server import main; main(['-p', '{port}', '-H', '{HOST}'])"
        stack.start("s3", [sys.executable, "-c", moto])
    wait_for(lambda: answers(url), "the S3 server", stack.folder / "s3.log")
    if real:
        ceph.add_users(stack)
    stack.environment["AWS_ENDPOINT_URL"] = stack.reader["AWS_ENDPOINT_URL"] = url
    make_bucket(stack)
    stack.save()
    kind = (
        "Ceph RADOS Gateway"
        if real
        else "moto, which lets everybody in: install radosgw for access control"
    )
    return f"S3 server at {url} ({kind}), bucket s3://{BUCKET}"


def make_bucket(stack: Stack) -> None:
    """The bucket, with the policy of ``deploy/bucket-policy.json``."""
    import s3fs

    given = stack.environment
    files = s3fs.S3FileSystem(
        endpoint_url=given["AWS_ENDPOINT_URL"],
        key=given["AWS_ACCESS_KEY_ID"],
        secret=given["AWS_SECRET_ACCESS_KEY"],
    )
    files.call_s3("create_bucket", Bucket=BUCKET)
    policy = (HOME / "deploy/bucket-policy.json").read_text()
    policy = policy.replace("arn:aws:iam::ACCOUNT:user/consumer", ceph.READER_ARN)
    policy = policy.replace("BUCKET", BUCKET)
    files.call_s3("put_bucket_policy", Bucket=BUCKET, Policy=policy)


def start_prefect(stack: Stack, port: int) -> str:
    """Prefect server; what was started."""
    database = postgres.start(stack) if postgres.is_installed() else None
    api = f"http://{HOST}:{port}/api"
    stack.environment["PREFECT_API_URL"] = api
    secret = {} if database is None else {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database}
    serve = ["prefect", "server", "start", "--host", HOST, "--port", str(port)]
    stack.start("prefect", [sys.executable, "-m", *serve], **secret)
    log = stack.folder / "prefect.log"
    wait_for(lambda: answers(f"{api}/health"), "the Prefect server", log)
    kept = "SQLite: PostgreSQL is not installed" if database is None else "PostgreSQL"
    return f"Prefect at http://{HOST}:{port} (on {kept})"


def start_dask(stack: Stack, workers: int) -> str:
    """Dask scheduler and workers; what was started."""
    port = free_port()
    address = f"tcp://{HOST}:{port}"
    dask = [sys.executable, "-m", "dask"]
    quiet = ["--no-dashboard"]
    stack.start("dask-scheduler", [*dask, "scheduler", "--host", HOST, "--port", str(port), *quiet])
    wait_for(lambda: listens(port), "the Dask scheduler", stack.folder / "dask-scheduler.log")
    options = ["--nthreads", "1", "--memory-limit", MEMORY, *quiet]
    for number in range(workers):
        space = ["--local-directory", str(stack.folder / f"dask-{number}")]
        stack.start(f"dask-worker-{number}", [*dask, "worker", address, *options, *space])
    stack.environment["SKYFOLD_DASK"] = address
    stack.save()
    return f"Dask scheduler at {address} with {workers} workers of {MEMORY}"


def start_worker(stack: Stack) -> str:
    """Deployments, and the worker that runs them; what was started. ConfigError if it fails."""
    run = [sys.executable, "-m", "flows", "deploy"]
    log = stack.folder / "deploy.log"
    with log.open("ab") as file:
        done = subprocess.run(
            run, env=os.environ | stack.environment, cwd=HOME, stdout=file, stderr=file, check=False
        )
    if done.returncode:
        raise ConfigError(f"`python -m flows deploy` failed; see {log}")
    command = ["prefect", "worker", "start", "--pool", "skyfold", "--name", "stack"]
    stack.start("worker", [sys.executable, "-m", *command])
    return "worker of the work pool skyfold, deployments registered"
