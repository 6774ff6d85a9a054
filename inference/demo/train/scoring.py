"""What all scores have in common: orders are painted in batches, and successes counted."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from inference.demo import MAX_SEQUENCE_LENGTH

BATCH = 25


def paint_by_size(
    pipe: Any, orders: Sequence[Any], arguments: Callable[[Sequence[Any]], dict[str, Any]]
) -> list[Image.Image]:
    """Paint every order, in batches of one size, each with its own seed.

    `arguments` are what the pipeline is told of a batch besides sizes and seeds.
    """
    groups: dict[tuple[int, int], list[Any]] = defaultdict(list)
    for order in orders:
        groups[order.size].append(order)
    pictures: dict[Any, Image.Image] = {}
    for (width, height), group in groups.items():
        for start in range(0, len(group), BATCH):
            batch = group[start : start + BATCH]
            images = pipe(
                width=width,
                height=height,
                max_sequence_length=MAX_SEQUENCE_LENGTH,
                generator=[torch.Generator().manual_seed(order.seed) for order in batch],
                **arguments(batch),
            ).images
            pictures.update(zip(batch, images, strict=True))
    return [pictures[order] for order in orders]


def shares(count: int, found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return how many orders there were, and the mean of what was found under each name."""
    means = {name: round(sum(values) / len(values), 3) for name, values in found.items()}
    return {"n": count, **means}
