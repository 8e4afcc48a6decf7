"""A small Kafka client for drills, on this repository's protocol package: what happens to it is what is measured.

It behaves as Apache Kafka's Java client does where that decides how long a fault is felt: idempotent producers with
five requests in flight, retries in order after 100 ms that double up to a second, leaders learnt from the answer that
refuses (KIP-951) or from metadata, asked for again after the same pauses. It differs in the request timeout: 5 s, not
30 s, so that a broker that is paused does not hold it for half a minute.

`view.py`, `outbox.py` and `backoff.py` decide and know no I/O; `client.py` keeps connections and metadata;
`producer.py`, `consumer.py`, `member.py` (KIP-848) and `admin.py` are what drills use.
"""
