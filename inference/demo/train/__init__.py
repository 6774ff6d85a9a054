"""The recipe that makes the demo model from nothing but its own drawings."""
