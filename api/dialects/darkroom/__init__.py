"""Our own API: everything the server can do."""
