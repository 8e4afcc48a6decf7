"""Coordinators: state machines replayed from a log of their own."""
