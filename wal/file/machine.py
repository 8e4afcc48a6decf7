"""Which machine this is, in 32 bits, for as long as it is up: a lock that is free says something only about processes
on the machine that grants it, because there are shared volumes whose locks do not reach across machines.

Containers on one machine share its kernel, its locks and this number.
"""

from __future__ import annotations

import functools
import platform
import uuid
from pathlib import Path

from crc32c import crc32c

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@functools.cache
def this_machine() -> int:
    """Never 0, which stands for a machine that is not known."""
    try:
        identity = _BOOT_ID.read_text().strip()
    except OSError:
        identity = f"{platform.node()} {uuid.getnode():x}"
    return crc32c(identity.encode()) or 1
