"""From a URL to a store.

`file:///directory`, `memory://`, `s3://bucket/prefix?endpoint=URL&region=NAME&path_style=true|false&anonymous=true`,
`gs://bucket/prefix`, `az://container/prefix?account=NAME`; for drills `faulty+` before any of them (`faults`).
Credentials are never part of a URL: S3 takes what boto3 finds (AWS_* variables, profiles, roles), the others what their
environment variables or the platform give.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from s3stream.objectstore.api import ObjectStore, StoreAddressInvalid, StoreError, StoreRefused
from s3stream.objectstore.faults import FaultyStore, faults_from_options
from s3stream.objectstore.file import FileStore
from s3stream.objectstore.hedging import HedgingStore
from s3stream.objectstore.memory import MemoryStore
from s3stream.objectstore.meter import MeteredStore, StoreMeter
from s3stream.objectstore.retrying import RetryingStore
from s3stream.objectstore.s3_credentials import find_credentials

FAULTY = "faulty+"
_OPTIONS = {
    "s3": {"endpoint", "region", "path_style", "anonymous"},
    "gs": set[str](),
    "az": {"account"},
}


async def open_store(url: str, meter: StoreMeter | None = None) -> ObjectStore:
    """Open the store at `url` and see whether it answers. Requests are counted in `meter`.

    Raises StoreAddressInvalid, StoreUnreachable (StoreRefused if bucket or credentials are wrong).
    """
    meter = meter or StoreMeter()
    if url.startswith(FAULTY):
        return await _open_faulty(url.removeprefix(FAULTY), meter)
    parts = urlsplit(url)
    if parts.scheme == "memory":
        return MeteredStore(MemoryStore(), meter)
    if parts.scheme == "file":
        return MeteredStore(await _open_file(url, parts), meter)
    store = await _open_remote(url, parts)
    return HedgingStore(RetryingStore(MeteredStore(store, meter)))


async def _open_faulty(url: str, meter: StoreMeter) -> ObjectStore:
    """As remote stores are, whatever it is: with retries."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    rules, rules_file, rng = faults_from_options(options)
    clean = parts._replace(query=urlencode(options))
    if clean.scheme == "memory":
        store: ObjectStore = MemoryStore()
    elif clean.scheme == "file":
        store = await _open_file(clean.geturl(), clean)
    else:
        store = await _open_remote(clean.geturl(), clean)
    faulty = FaultyStore(store, rules, rng, rules_file=rules_file)
    return HedgingStore(RetryingStore(MeteredStore(faulty, meter)))


async def _open_file(url: str, parts: SplitResult) -> FileStore:
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise StoreAddressInvalid(f"not a directory: {url!r} (write file:///directory)")
    return await FileStore.open(unquote(parts.path))


async def _open_remote(url: str, parts: SplitResult) -> ObjectStore:
    if parts.scheme not in _OPTIONS:
        known = ", ".join(["file", "memory", *_OPTIONS])
        raise StoreAddressInvalid(f"no object store for {url!r} (known: {known})")
    # Loaded only here: it takes a noticeable part of the start-up.
    from obstore.exceptions import BaseError

    from s3stream.objectstore.remote import RemoteStore

    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = options.keys() - _OPTIONS[parts.scheme]
    if unknown or not parts.netloc or "@" in parts.netloc:
        why = f"unknown option {min(unknown)!r}" if unknown else "there must be a bucket, and no credentials"
        raise StoreAddressInvalid(f"not a usable store address: {url!r} ({why})")
    prefix = parts.path.strip("/") or None
    try:
        native = await asyncio.to_thread(_build, parts.scheme, parts.netloc, prefix, options)
        store = RemoteStore(f"{parts.scheme}://{parts.netloc}", native)
    except StoreError:
        raise
    except (BaseError, ValueError, TypeError) as error:
        raise StoreAddressInvalid(f"cannot open {url!r}: {error}") from error
    await store.check()
    return store


def _build(scheme: str, bucket: str, prefix: str | None, options: dict[str, str]) -> Any:
    from obstore.store import AzureStore, GCSStore

    from s3stream.objectstore.remote import CLIENT_OPTIONS, NO_RETRIES

    common: dict[str, Any] = {"prefix": prefix, "client_options": CLIENT_OPTIONS, "retry_config": NO_RETRIES}
    if scheme == "gs":
        return GCSStore(bucket, **common)
    if scheme == "az":
        if "account" in options:
            common["config"] = {"account_name": options["account"]}
        return AzureStore(bucket, **common)
    return _build_s3(bucket, options, common)


def _build_s3(bucket: str, options: dict[str, str], common: dict[str, Any]) -> Any:
    from obstore.store import S3Store

    endpoint = options.get("endpoint")
    config: dict[str, Any] = {
        "unsigned_payload": True,
        "conditional_put": "etag",
        # Servers other than AWS's rarely have a name for each bucket.
        "virtual_hosted_style_request": not _flag(options, "path_style", endpoint is not None or _endpoint_is_set()),
    }
    if endpoint is not None:
        config["endpoint"] = endpoint
    common["config"] = config
    if _flag(options, "anonymous", False):
        config |= {"skip_signature": True, "region": options.get("region", "us-east-1")}
        return S3Store(bucket, **common)
    found = find_credentials(options.get("region"))
    if found is None:
        raise StoreRefused(f"no AWS credentials found for s3://{bucket} (environment, profile or role)")
    config["region"] = found.region or "us-east-1"
    common["credential_provider"] = found.provider
    return S3Store(bucket, **common)


def _endpoint_is_set() -> bool:
    return any(os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"))


def _flag(options: dict[str, str], name: str, default: bool) -> bool:
    text = options.get(name)
    if text is None:
        return default
    if text not in ("true", "false"):
        raise StoreAddressInvalid(f"{name} must be true or false, not {text!r}")
    return text == "true"
