"""The copy jobs of `jobs/` as commands: each is built once into the cache folder of the foreign clients' drivers.

Skips, with a word about what is missing, where the toolchain is absent.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.interop.clients import CACHE, build, is_stale, kafka_classpath, need

JOBS = Path(__file__).parent / "jobs"


@contextmanager
def _one_builder() -> Iterator[None]:
    """Tests that run side by side would else build into the same folder."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "copy-jobs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def confluent() -> list[str]:
    return [sys.executable, str(JOBS / "confluent_copy.py")]


@cache
def java() -> list[str]:
    need("javac")
    classes, source = CACHE / "copy-java", JOBS / "java" / "Copy.java"
    with _one_builder():
        if is_stale(classes / "Copy.class", source):
            classes.mkdir(parents=True, exist_ok=True)
            build(["javac", "-cp", kafka_classpath(), "-d", str(classes), str(source)], CACHE)
    return [
        need("java"),
        "-Xmx128m",
        "-XX:TieredStopAtLevel=1",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
        "-cp",
        f"{classes}{os.pathsep}{kafka_classpath()}",
        "Copy",
    ]


@cache
def franz() -> list[str]:
    go = need("go")
    folder = CACHE / "copy-franz"
    program = folder / "copy"
    with _one_builder():
        if any(is_stale(program, source) for source in (JOBS / "franz").iterdir()):
            shutil.copytree(JOBS / "franz", folder, dirs_exist_ok=True)
            build([go, "build", "-o", "copy", "."], folder)
    return [str(program)]


CLIENTS: dict[str, Callable[[], list[str]]] = {"confluent": confluent, "java": java, "franz": franz}
