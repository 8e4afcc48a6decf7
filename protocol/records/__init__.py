"""Record batches (magic 2): header view, validation, stamping, control batches, and the records inside.

    position size  field                     position size  field
           0    8  base offset                     27    8  base timestamp (ms)
           8    4  batch length (from 12)          35    8  max timestamp (ms)
          12    4  partition leader epoch          43    8  producer id
          16    1  magic, 2                        51    2  producer epoch
          17    4  CRC32C of all from 21           53    4  base sequence
          21    2  attributes                      57    4  record count
          23    4  last offset delta               61       records, compressed as one

Attributes: bits 0-2 compression codec, 3 log append time, 4 transactional, 5 control, 6 delete horizon set. Numbers are
big-endian. Base offset and partition leader epoch are not under the CRC: the broker stamps them in place. What the hot
path uses (`header`, `validation`, `stamping`) never looks behind the header, but for the CRC.
"""

from __future__ import annotations

from protocol.records.batch import Record, build_batch, decode_records, iter_records, validate_records
from protocol.records.compression import Codec
from protocol.records.control import EndTxnMarker, build_end_txn_marker, parse_end_txn_marker
from protocol.records.header import HEADER_SIZE, BatchHeader, iter_batches
from protocol.records.stamping import stamp, stamp_log_append_time
from protocol.records.validation import validate_batches

__all__ = [
    "HEADER_SIZE",
    "BatchHeader",
    "Codec",
    "EndTxnMarker",
    "Record",
    "build_batch",
    "build_end_txn_marker",
    "decode_records",
    "iter_batches",
    "iter_records",
    "parse_end_txn_marker",
    "stamp",
    "stamp_log_append_time",
    "validate_batches",
    "validate_records",
]
