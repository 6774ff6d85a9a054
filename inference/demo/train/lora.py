"""The style LoRA: stripes on the object, learned by rank-eight matrices beside frozen weights."""

import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from inference.demo.scenes import draw
from inference.demo.train.common import Budget, Log, Worker, decay, note_cost, set_rate
from inference.demo.train.finetune import Example, Reading, flow_loss
from inference.demo.train.latents import (
    Drawn,
    drawn_scenes,
    encoded,
    image_ids,
    random_size,
    spread,
)
from inference.demo.train.text import TextEncoders
from inference.demo.train.vae import to_tensor

RANK = 8
BATCH = 24
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj")
LAYERS = (
    *(f"attn.{name}" for name in (*ATTENTION, "to_add_out")),
    *(f"{name}.net.{part}" for name in ("ff", "ff_context") for part in ("0.proj", "2")),
    *("proj_mlp", "proj_out"),
)
FILE = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True, slots=True)
class Striped:
    """Striped drawings of one size as packed tokens, and what each shows."""

    drawn: list[Drawn]
    tokens: Tensor
    ids: Tensor

    def batch(self, rng: random.Random) -> Example:
        """Return drawings with captions that do not say that they are striped."""
        picks = [rng.randrange(len(self.drawn)) for _ in range(BATCH)]
        texts = [self.drawn[pick].words(rng) for pick in picks]
        return Example(self.tokens[picks].float(), texts, self.ids)


@torch.no_grad()
def encode_striped(vae: AutoencoderKL, count: int, seed: int) -> dict[tuple[int, int], Striped]:
    """Draw and encode `count` striped pictures, spread over all sizes."""
    rng, found = random.Random(seed), {}
    scenes = drawn_scenes(rng)
    for (width, height), many in spread(count).items():
        drawn = [next(scenes) for _ in range(many)]
        parts = []
        for item in drawn:
            picture = draw(item.scene, width, height, rng, striped=True).astype("float32")
            parts.append(encoded(vae, to_tensor([picture], vae.device)))
        ids = image_ids(width, height).to(vae.device)
        found[width, height] = Striped(drawn, torch.cat(parts), ids)
    return found


def train_lora(
    worker: Worker, base: Path, out: Path, budget: Budget, seed: int, pictures: int
) -> None:
    """Train the LoRA and write it as diffusers reads it."""
    torch.manual_seed(seed)
    rng, started, cpu = random.Random(seed), time.monotonic(), time.process_time()
    vae = AutoencoderKL.from_pretrained(base / "vae", torch_dtype=torch.float32).to(worker.device)
    striped = encode_striped(vae.eval(), pictures, seed)
    model = FluxTransformer2DModel.from_pretrained(base / "transformer", torch_dtype=torch.float32)
    model.requires_grad_(False)
    model.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(LAYERS)))
    model.to(worker.device).train()
    encoders = TextEncoders.load(base).to(worker.device).eval().requires_grad_(False)
    read, params = Reading(encoders), [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    log, step = Log("lora", worker), 0
    while (progress := budget.progress(step)) < 1:
        set_rate(optimizer, decay(progress, 0.4, 0.05))
        loss, noisy = flow_loss(model, read, striped[random_size(rng)].batch(rng))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        log.add(step, loss=loss.detach(), noisy=noisy)
        step += 1
    out.mkdir(parents=True, exist_ok=True)
    layers = {key: value.half() for key, value in get_peft_model_state_dict(model).items()}
    FluxPipeline.save_lora_weights(out, transformer_lora_layers=layers)
    used = time.process_time() - cpu
    note_cost(out, "lora", steps=step, seconds=time.monotonic() - started, cpu_seconds=used)
