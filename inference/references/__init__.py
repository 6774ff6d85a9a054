"""Reference pictures: what models.yaml says of them, what that loads, and what a call gets."""
