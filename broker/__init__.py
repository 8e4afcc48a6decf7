"""The Kafka broker: server, handlers, partitions, coordinators, cluster."""
