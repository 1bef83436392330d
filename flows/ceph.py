"""Ceph RADOS Gateway for the stack: one monitor, one manager, one store, all in one folder.

A real S3 server, which refuses wrong keys and knows bucket policies; Debian has it as ``radosgw
ceph-mon ceph-osd ceph-mgr ceph-common``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from typing import TYPE_CHECKING

from skyfold.errors import ConfigError

if TYPE_CHECKING:
    from flows.stack import Stack

PROGRAMS = ("radosgw", "radosgw-admin", "ceph", "ceph-mon", "ceph-mgr", "ceph-osd", "monmaptool")
READER = "consumer"
READER_ARN = f"arn:aws:iam:::user/{READER}"
STORE_BYTES = 16 * 2**30  # a sparse file
_SETTINGS = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon}]
public network = 127.0.0.0/8
cluster network = 127.0.0.0/8
auth cluster required = none
auth service required = none
auth client required = none
ms cluster mode = crc
ms service mode = crc
ms client mode = crc
ms mon client mode = crc
auth allow insecure global id reclaim = false
osd crush update on start = false
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon warn on pool no redundancy = false
mon data = {folder}/mon
mgr data = {folder}/mgr
osd data = {folder}/osd
rgw data = {folder}/rgw
osd objectstore = bluestore
bluestore block size = {size}
osd memory target = 939524096
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
pid file = {folder}/$name.pid
keyring = {folder}/keyring
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw dynamic resharding = false
"""


def is_installed() -> bool:
    """Whether all programs are there."""
    return all(shutil.which(name) for name in PROGRAMS)


def start(stack: Stack, port: int) -> None:
    """Start the daemons; the gateway answers some seconds later."""
    from flows.stack import free_port

    folder = stack.folder / "ceph"
    for name in ("mon", "mgr", "osd", "rgw"):
        (folder / name).mkdir(parents=True)
    (folder / "keyring").touch()
    fsid, mon = str(uuid.uuid4()), free_port()
    settings = folder / "ceph.conf"
    stack.environment["CEPH_CONF"] = str(settings)
    settings.write_text(
        _SETTINGS.format(fsid=fsid, mon=mon, folder=folder, size=STORE_BYTES, port=port)
    )
    monmap = str(folder / "monmap")
    _run(
        stack,
        "monmaptool",
        "--create",
        "--fsid",
        fsid,
        "--addv",
        "a",
        f"[v2:127.0.0.1:{mon}]",
        monmap,
    )
    _run(stack, "ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
    stack.start("ceph-mon", ["ceph-mon", "-f", "-i", "a"])
    stack.start("ceph-mgr", ["ceph-mgr", "-f", "-i", "x"])
    _start_osd(stack)
    stack.start("s3", ["radosgw", "-f", "-n", "client.rgw.a"])


def _start_osd(stack: Stack) -> None:
    store = str(uuid.uuid4())
    _run(stack, "ceph", "osd", "new", store)
    _run(stack, "ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", store)
    stack.start("ceph-osd", ["ceph-osd", "-f", "-i", "0"])
    place = ("root=default", "host=localhost")
    _run(stack, "ceph", "osd", "crush", "add", "osd.0", "1.0", *place)


def add_users(stack: Stack) -> None:
    """The producer, who owns the bucket, and a consumer."""
    for name, keys in (("producer", stack.environment), (READER, stack.reader)):
        access = ["--access-key", keys["AWS_ACCESS_KEY_ID"]]
        access += ["--secret-key", keys["AWS_SECRET_ACCESS_KEY"]]
        _run(
            stack, "radosgw-admin", "user", "create", "--uid", name, "--display-name", name, *access
        )


def _run(stack: Stack, *command: str) -> None:
    done = subprocess.run(
        command,
        env=os.environ | stack.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode:
        told = done.stderr.strip().splitlines()[-1:]
        raise ConfigError(f"{' '.join(command[:3])} failed: {' '.join(told)}")
