"""Kafka-named configs: definitions with their effect here, parsing and validation, effective values, descriptions."""
