"""Which models lie where: planned under a budget of bytes, and carried out between forwards."""
