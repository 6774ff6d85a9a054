"""The engine: diffusers pipelines, batched step by step. Knows no web and no database."""
