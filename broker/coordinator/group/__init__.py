"""The group coordinator: classic consumer groups and committed offsets, replayed from `__consumer_offsets`."""
