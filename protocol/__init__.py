"""Kafka wire protocol without I/O: codec, messages, record batches, framing."""
