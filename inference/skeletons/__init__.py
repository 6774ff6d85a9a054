"""Pipelines of the real architectures with random weights, built from configs, nothing downloaded.

Tests and CPU benchmarks use these tiny shapes; they exercise every line that a full-size
checkpoint would, in milliseconds.
"""

from inference.skeletons.flux import tiny_fill, tiny_flux, tiny_kontext
from inference.skeletons.stable import tiny_sdxl

__all__ = ["tiny_fill", "tiny_flux", "tiny_kontext", "tiny_sdxl"]
