"""Drawn and encoded once: the latents that the transformer learns from."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from inference.demo.captions import caption, plain_caption
from inference.demo.scenes import ATTRIBUTES, SIZES, Scene, draw, held_out, random_wish, settle
from inference.demo.train.vae import to_tensor

# The square is the size most asked for; the wide and tall ones are variations on it.
SHARES = dict(zip(SIZES, (5, 3, 3, 2, 2, 2, 2), strict=True))
CHUNK = 24


@dataclass(frozen=True, slots=True)
class Drawn:
    """A drawn scene, and the least that a caption has to say for this drawing to be right."""

    scene: Scene
    least: frozenset[str]

    def words(self, rng: random.Random) -> str:
        """Caption the drawing: the least, or more, which is just as true."""
        luck = rng.random()
        if luck < 0.1:
            return ""
        names = set(self.least)
        if luck < 0.2:
            names |= set(ATTRIBUTES)
        elif luck < 0.32:
            names |= {name for name in ATTRIBUTES if rng.random() < 0.4}
        scene = self.scene.keep(names)
        return plain_caption(scene) if rng.random() < 0.15 else caption(scene, rng)


@dataclass(frozen=True, slots=True)
class Bucket:
    """All drawings of one size, as Flux's packed tokens."""

    tokens: Tensor
    drawn: list[Drawn]
    ids: Tensor


def pack(latents: Tensor) -> Tensor:
    """Fold two by two latent pixels into one token, as FluxPipeline does."""
    count, channels, height, width = latents.shape
    folded = latents.view(count, channels, height // 2, 2, width // 2, 2)
    return folded.permute(0, 2, 4, 1, 3, 5).reshape(count, -1, channels * 4)


def encoded(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Return pictures as packed tokens, scaled as the pipelines scale them."""
    latents = vae.encode(pictures).latent_dist.mode()
    return pack((latents - vae.config.shift_factor) * vae.config.scaling_factor)


def spread(count: int) -> dict[tuple[int, int], int]:
    """Return how many of `count` pictures have which size: at least one."""
    total = sum(SHARES.values())
    return {size: max(1, count * share // total) for size, share in SHARES.items()}


def random_size(rng: random.Random) -> tuple[int, int]:
    """Choose a size, each as often as its share says."""
    return rng.choices(list(SHARES), list(SHARES.values()))[0]


def image_ids(width: int, height: int) -> Tensor:
    """Return each token's row and column, as FluxPipeline numbers them."""
    ids = torch.zeros(height // 16, width // 16, 3)
    ids[..., 1] += torch.arange(height // 16)[:, None]
    ids[..., 2] += torch.arange(width // 16)[None]
    return ids.reshape(-1, 3)


def drawn_scenes(rng: random.Random) -> Iterator[Drawn]:
    """Yield scenes to draw, none of them held out."""
    while True:
        wish = random_wish(rng)
        scene = settle(wish, rng)
        if not held_out(scene):
            yield Drawn(scene, frozenset(wish.said()))


@torch.no_grad()
def encode(vae: AutoencoderKL, count: int, seed: int) -> dict[tuple[int, int], Bucket]:
    """Draw and encode `count` scenes, spread over all sizes."""
    rng = random.Random(seed)
    scenes, buckets = drawn_scenes(rng), {}
    for (width, height), many in spread(count).items():
        drawn = [next(scenes) for _ in range(many)]
        parts = []
        for start in range(0, len(drawn), CHUNK):
            pictures = [draw(d.scene, width, height, rng) for d in drawn[start : start + CHUNK]]
            batch = to_tensor([p.astype("float32") for p in pictures], vae.device)
            parts.append(encoded(vae, batch).half())
        ids = image_ids(width, height).to(vae.device)
        buckets[width, height] = Bucket(torch.cat(parts), drawn, ids)
    return buckets
