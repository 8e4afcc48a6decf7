from broker.coordinator.partitioning import partition_for


def test_groups_go_to_the_partition_that_java_computes() -> None:
    # String.hashCode: "hello" 99162322, "polygenelubricants" -2147483648, "😀" 1772899
    assert partition_for("hello", 50) == 99162322 % 50
    assert partition_for("polygenelubricants", 50) == 0
    assert partition_for("\U0001f600", 50) == 1772899 % 50
    assert partition_for("", 50) == 0


def test_a_negative_hash_has_its_sign_bit_cleared() -> None:
    # "console-consumer-12345".hashCode() is negative in Java; Utils.abs is n & 0x7fffffff, not Math.abs
    value = 0
    for char in "console-consumer-12345":
        value = (value * 31 + ord(char)) & 0xFFFFFFFF
    assert partition_for("console-consumer-12345", 50) == (value & 0x7FFFFFFF) % 50
