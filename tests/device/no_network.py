"""Runs commands where every network but the machine's own is refused: ``python no_network.py RECORD COMMANDS``.

RECORD gets, for each of the COMMANDS (JSON: a list of argument lists), its exit code, its output, and how many packets
it tried to send: to an address without a route, or to a name server on this machine where none listens.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

SET_FLAGS, UP = 0x8914, 0x1  # SIOCSIFFLAGS, IFF_UP
REFUSED = {"Ip": "OutNoRoutes", "Udp": "NoPorts"}  # counters of Linux, of this network namespace alone


def refused() -> int:
    lines = [line.split() for line in Path("/proc/self/net/snmp").read_text().splitlines()]
    count = 0
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        name = REFUSED.get(names[0].rstrip(":"))
        count += int(values[names.index(name)]) if name else 0
    return count


def wait_for_children() -> None:
    """Wait until no process that a command left behind (DVC's, say) is in this namespace."""
    own = Path("/proc/self/ns/net").stat().st_ino
    for _ in range(300):
        others = 0
        for process in Path("/proc").glob("[0-9]*"):
            try:
                others += process.name != str(os.getpid()) and (process / "ns/net").stat().st_ino == own
            except OSError:  # it has ended
                continue
        if not others:
            return
        time.sleep(0.1)


def main(record: Path, commands: list[list[str]]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SET_FLAGS, struct.pack("16sh", b"lo", UP))
    found = []
    for command in commands:
        before = refused()
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        wait_for_children()
        found.append({"code": said.returncode, "said": said.stdout + said.stderr, "refused": refused() - before})
    record.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
