"""Where a worker lives: today in a thread of this process."""
