"""Pipelines of the real architectures with random weights, built from configs, nothing downloaded.

Tests and CPU benchmarks use these tiny shapes; they exercise every line that a full-size
checkpoint would, in milliseconds.
"""

from inference.skeletons.adapters import save_ip_adapter, tiny_controlnet, tiny_redux
from inference.skeletons.any import tiny_pixart, tiny_sd
from inference.skeletons.flux import tiny_fill, tiny_flux, tiny_kontext
from inference.skeletons.flux2 import tiny_flux2, tiny_klein
from inference.skeletons.others import tiny_qwen, tiny_qwen_edit, tiny_zimage
from inference.skeletons.parts import save
from inference.skeletons.stable import tiny_sd3, tiny_sdxl

__all__ = [
    "save",
    "save_ip_adapter",
    "tiny_controlnet",
    "tiny_fill",
    "tiny_flux",
    "tiny_flux2",
    "tiny_klein",
    "tiny_kontext",
    "tiny_pixart",
    "tiny_qwen",
    "tiny_qwen_edit",
    "tiny_redux",
    "tiny_sd",
    "tiny_sd3",
    "tiny_sdxl",
    "tiny_zimage",
]
