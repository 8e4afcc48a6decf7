"""Generator of `protocol.messages` and `protocol.api_keys` from the message definitions inside Apache Kafka's jars.

    python -m protocol.generator JAR_DIR

Names, types and versions are carried over; prose is not. Its output is committed, so nobody needs the jars to build.
"""
