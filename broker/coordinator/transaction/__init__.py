"""The transaction coordinator: producer ids, epochs and two-phase commits, replayed from `__transaction_state`."""
