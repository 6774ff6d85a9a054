"""The service: HTTP, durable tasks, dialects. Knows no torch."""
