"""The built-in demo model: a tiny Flux that draws one coloured shape."""

from pathlib import Path

TINY_FLUX = Path(__file__).parent / "tiny-flux"

# How the model was trained and is meant to be served; its model card says the same.
# Flux has no padding mask: another number of text positions is another input.
MAX_SEQUENCE_LENGTH = 24
STEPS = 8
TRUE_CFG_SCALE = 3.0
