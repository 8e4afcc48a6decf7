from broker.coordinator.partitioning import partition_for


def test_groups_go_to_the_partition_that_java_computes() -> None:
    # String.hashCode: "hello" 99162322, "polygenelubricants" -2147483648, "😀" 1772899
    assert partition_for("hello", 50) == 99162322 % 50
    assert partition_for("polygenelubricants", 50) == 0
    assert partition_for("\U0001f600", 50) == 1772899 % 50
    assert partition_for("", 50) == 0


def test_a_negative_hash_loses_its_sign() -> None:
    # "in-transaction".hashCode() is -98606538 in Java; Apache Kafka 4.3.1 keeps that group in partition 38
    assert partition_for("in-transaction", 50) == 98606538 % 50 == 38
