"""APIModels.app: asynchronous, polled; JSON in an envelope, and a callback at the end."""
