"""The fill model: Fill's way, the masked picture and the mask as further channels of each token."""

import random
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Tensor

from inference.demo.captions import caption, plain_caption
from inference.demo.inpaint import MASKS, mask_around
from inference.demo.scenes import ATTRIBUTES, Scene, draw, random_scene
from inference.demo.train.finetune import Example, Recipe
from inference.demo.train.latents import encoded, image_ids, pack, spread
from inference.demo.train.vae import to_tensor

BATCH = 24
LATENT_CHANNELS, MASK_CHANNELS = 64, 256
CHUNK = 12


def words(scene: Scene, rng: random.Random) -> str:
    """Caption a scene: mostly its colour and shape, as the rest can be seen around the mask."""
    luck = rng.random()
    if luck < 0.05:
        return ""
    if luck < 0.6:
        scene = scene.keep({"colour", "shape"})
    elif luck < 0.75:
        names = {name for name in ATTRIBUTES if rng.random() < 0.5}
        scene = scene.keep(names | {"shape"})
    return plain_caption(scene) if rng.random() < 0.4 else caption(scene, rng)


@dataclass(frozen=True, slots=True)
class Masked:
    """Drawings of one size as packed tokens, with what is seen around their masks."""

    scenes: list[Scene]
    tokens: Tensor
    channels: Tensor
    ids: Tensor

    def batch(self, rng: random.Random) -> Example:
        """Return drawings to fill in; what the mask covers counts double."""
        picks = [rng.randrange(len(self.scenes)) for _ in range(BATCH)]
        texts = [words(self.scenes[pick], rng) for pick in picks]
        channels = self.channels[picks].float()
        covered = channels[..., LATENT_CHANNELS:].amax(2)
        return Example(
            self.tokens[picks].float(), texts, self.ids, channels=channels, weights=1 + covered
        )


def random_mask(scene: Scene, width: int, height: int, rng: random.Random) -> Tensor:
    """Return a mask of some kind and margin around the scene's object, height x width."""
    mask = mask_around(scene, width, height, rng.choice(MASKS), rng.uniform(2, 14))
    return torch.from_numpy(mask.copy())


def pack_mask(mask: Tensor) -> Tensor:
    """Fold a mask (count x height x width) into 256 channels a token, as FluxFillPipeline does."""
    count, height, width = mask.shape
    folded = mask.view(count, height // 8, 8, width // 8, 8).permute(0, 2, 4, 1, 3)
    return pack(folded.reshape(count, 64, height // 8, width // 8))


@torch.no_grad()
def encode_masked(vae: AutoencoderKL, count: int, seed: int) -> dict[tuple[int, int], Masked]:
    """Draw, mask and encode `count` pictures, spread over all sizes."""
    rng, found = random.Random(seed), {}
    for (width, height), many in spread(count).items():
        scenes = [random_scene(rng) for _ in range(many)]
        tokens, channels = [], []
        for start in range(0, len(scenes), CHUNK):
            part = scenes[start : start + CHUNK]
            drawn = [draw(scene, width, height, rng).astype("float32") for scene in part]
            masks = torch.stack([random_mask(scene, width, height, rng) for scene in part])
            masks = masks.to(vae.device, torch.float32)
            pictures = to_tensor(drawn, vae.device)
            around = encoded(vae, pictures * (1 - masks[:, None]))
            tokens.append(encoded(vae, pictures).half())
            channels.append(torch.cat([around, pack_mask(masks)], dim=2).half())
        ids = image_ids(width, height).to(vae.device)
        found[width, height] = Masked(scenes, torch.cat(tokens), torch.cat(channels), ids)
    return found


def widened(base: FluxTransformer2DModel) -> FluxTransformer2DModel:
    """Return the generator with inputs for mask and masked picture, which start without effect."""
    config = dict(base.config) | {
        "in_channels": 2 * LATENT_CHANNELS + MASK_CHANNELS,
        "out_channels": LATENT_CHANNELS,
    }
    model = FluxTransformer2DModel.from_config(config)
    weights = base.state_dict()
    wide = torch.zeros_like(model.x_embedder.weight)
    wide[:, :LATENT_CHANNELS] = weights["x_embedder.weight"]
    model.load_state_dict(weights | {"x_embedder.weight": wide})
    return model


FILL = Recipe("fill", encode_masked, widened)
