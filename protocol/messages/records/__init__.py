"""Messages inside records: coordinator records, the consumer protocol, control records. Generated modules."""
