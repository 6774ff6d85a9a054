"""Mynth: tasks that are polled, by a key or by a token that is good for one task."""
