"""The edit model: Kontext's way, a reference picture's tokens beside those to be drawn."""

import random
from dataclasses import dataclass, replace
from itertools import product

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Tensor

from inference.demo.captions import edit_instruction
from inference.demo.edits import KINDS
from inference.demo.scenes import BACKGROUNDS, COLOURS, SHAPES, Scene, draw, held_out, random_scene
from inference.demo.train.finetune import Example, Recipe
from inference.demo.train.latents import encoded, image_ids, spread
from inference.demo.train.vae import to_tensor

BATCH = 24
# Another outline is harder to learn than another colour.
KIND_SHARES = dict(zip(KINDS, (3, 2, 4), strict=True))
# No instruction, no change: guidance then pushes from the untouched picture towards the edit.
UNCHANGED = 0.07
# How much a token counts that the edit changes: most of them only have to be copied.
CHANGED_WEIGHT = 3.0


@dataclass(frozen=True, slots=True)
class Cube:
    """Eight scenes of one layout: two colours by two backgrounds by two shapes, in that order."""

    scenes: tuple[Scene, ...]

    @classmethod
    def random(cls, rng: random.Random) -> "Cube":
        """Choose one; no object has the name of its background's colour."""
        scene = random_scene(rng)
        backgrounds = rng.sample(list(BACKGROUNDS), 2)
        colours = rng.sample([name for name in COLOURS if name not in backgrounds], 2)
        corners = product(colours, backgrounds, rng.sample(SHAPES, 2))
        return cls(tuple(replace(scene, colour=c, background=b, shape=s) for c, b, s in corners))

    def edges(self, kind: str) -> list[tuple[int, int]]:
        """Return pairs of scenes that one edit of this kind leads between, none held out."""
        flip = {"colour": 4, "background": 2, "shape": 1}[kind]
        open_ = [index for index, scene in enumerate(self.scenes) if not held_out(scene)]
        return [(index, index ^ flip) for index in open_ if index ^ flip in open_]


@dataclass(frozen=True, slots=True)
class Cubes:
    """All cubes of one size with their packed latents, cube x 8 x tokens x channels."""

    cubes: list[Cube]
    tokens: Tensor
    ids: Tensor

    def batch(self, rng: random.Random) -> Example:
        """Return edits of this size, each from a cube of its own."""
        picks: list[int] = []
        sources: list[int] = []
        targets: list[int] = []
        texts: list[str] = []
        while len(texts) < BATCH:
            index = rng.randrange(len(self.cubes))
            kind = rng.choices(list(KIND_SHARES), list(KIND_SHARES.values()))[0]
            cube, edges = self.cubes[index], self.cubes[index].edges(kind)
            if not edges:
                continue
            source, target = rng.choice(edges)
            if rng.random() < UNCHANGED:
                target, text = source, ""
            else:
                text = edit_instruction(kind, cube.scenes[source], cube.scenes[target], rng)
            picks.append(index)
            sources.append(source)
            targets.append(target)
            texts.append(text)
        tokens, reference = (self.tokens[picks, which].float() for which in (targets, sources))
        changed = ((tokens - reference).square().mean(2) > 0.01).float()
        weights = 1 + (CHANGED_WEIGHT - 1) * changed
        return Example(tokens, texts, self.ids, reference=reference, weights=weights)


def edit_ids(width: int, height: int) -> Tensor:
    """Return the places of the picture's tokens, then of the reference's: first axis 1."""
    ids = image_ids(width, height)
    reference = ids.clone()
    reference[:, 0] = 1
    return torch.cat([ids, reference])


@torch.no_grad()
def encode_cubes(vae: AutoencoderKL, count: int, seed: int) -> dict[tuple[int, int], Cubes]:
    """Draw and encode `count` pictures in cubes, spread over all sizes."""
    rng, found = random.Random(seed), {}
    for (width, height), many in spread(count).items():
        cubes, parts = [], []
        for _ in range(max(1, many // 8)):
            cube, same = Cube.random(rng), rng.randrange(2**32)
            drawn = [draw(scene, width, height, random.Random(same)) for scene in cube.scenes]
            batch = to_tensor([picture.astype("float32") for picture in drawn], vae.device)
            cubes.append(cube)
            parts.append(encoded(vae, batch).half())
        ids = edit_ids(width, height).to(vae.device)
        found[width, height] = Cubes(cubes, torch.stack(parts), ids)
    return found


def unchanged(generator: FluxTransformer2DModel) -> FluxTransformer2DModel:
    """Return the generator: further tokens need no further weights."""
    return generator


EDIT = Recipe("edit", encode_cubes, unchanged)
