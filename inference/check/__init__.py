"""Whether what models.yaml names could be served here: built from configs and counted."""
