"""What a process costs, from /proc (Linux)."""

from __future__ import annotations

import os
from pathlib import Path

_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time so far, of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS


def resident_size(pid: int) -> int:
    """Bytes of resident memory now."""
    return _status_size(pid, "VmRSS")


def resident_size_max(pid: int) -> int:
    """The most resident memory it ever had, in bytes."""
    return _status_size(pid, "VmHWM")


class MeasuredProcess:
    """What has a `pid`, and tells what that process costs."""

    @property
    def pid(self) -> int:
        raise NotImplementedError

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid)

    def resident_size(self) -> int:
        return resident_size(self.pid)

    def resident_size_max(self) -> int:
        return resident_size_max(self.pid)


def _status_size(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"no {field} of process {pid}")
