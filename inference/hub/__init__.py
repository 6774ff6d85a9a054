"""Checkpoints as files: of the hub and of folders, counted and fetched; no weight is read."""
