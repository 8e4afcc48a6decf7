"""Compiles straight-line codecs, as Python source, from the field tables of messages.

One function per (message class, version), with all nested structs inlined; runs of fixed-size fields, and the first
byte of the length that follows them, are one precompiled `struct`. Sources are compiled on first use.
"""

from __future__ import annotations

from protocol.compiler.decoder import Decoder, compile_decoder
from protocol.compiler.encoder import Encoder, compile_encoder

__all__ = ["Decoder", "Encoder", "compile_decoder", "compile_encoder"]
