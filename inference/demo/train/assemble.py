"""Put the trained parts together as the folder that FluxPipeline loads."""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)

from inference.demo.train.text import TextEncoders


def assemble(work: Path, out: Path) -> None:
    """Write the pipeline in half precision."""
    text = TextEncoders.load(work)
    pipe = FluxPipeline(
        # Layout is decided at high noise: serving spends its few steps there.
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=AutoencoderKL.from_pretrained(work / "vae"),
        text_encoder=text.clip,
        tokenizer=text.clip_tokens,
        text_encoder_2=text.t5,
        tokenizer_2=text.t5_tokens,
        transformer=FluxTransformer2DModel.from_pretrained(work / "transformer"),
    )
    pipe.to(torch.float16)
    pipe.save_pretrained(out, safe_serialization=True)
    tidy(out)


def tidy(out: Path) -> None:
    """Take out of the parts' configs what belongs to the machine that made them."""
    for path in out.rglob("config.json"):
        config = json.loads(path.read_text())
        # diffusers notes the folder that a part came from.
        config.pop("_name_or_path", None)
        if "dtype" in config:
            # Named here, half precision would be what transformers loads unasked, unlike diffusers.
            config["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2) + "\n")
