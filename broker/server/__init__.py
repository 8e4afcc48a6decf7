"""The network side of the broker: connections, framing, dispatch by API, limits."""
