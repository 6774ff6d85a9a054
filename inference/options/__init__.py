"""Options of speed and size: what models.yaml asks for, tried with a real picture."""
