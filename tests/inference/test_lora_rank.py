"""Rank truncation: the best there is, by the singular values that it leaves out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inference.loras.rank import truncate

SHAPES = [((24,), 16), ((16,), 40), ((6,), 5), ((8, 3, 3), 12), ((4, 1, 1), 3)]


def pair(inner: tuple[int, ...], outer: int, rank: int = 8) -> tuple[Tensor, Tensor]:
    dice = torch.Generator().manual_seed(len(inner) * outer)
    return torch.randn(rank, *inner, generator=dice), torch.randn(outer, rank, generator=dice)


def product(down: Tensor, up: Tensor) -> Tensor:
    return up.double() @ down.flatten(1).double()


@pytest.mark.parametrize(("inner", "outer"), SHAPES)
@pytest.mark.parametrize("rank", [1, 3, 7])
def test_its_error_is_the_tail_of_the_singular_values(
    inner: tuple[int, ...], outer: int, rank: int
) -> None:
    down, up = pair(inner, outer)
    full = product(down, up)
    shorter = truncate(down, up, rank)
    sizes = torch.linalg.svdvals(full)
    error = torch.linalg.norm(full - product(*shorter))
    assert torch.isclose(error, torch.linalg.norm(sizes[rank:]), rtol=1e-4, atol=1e-4)
    kept = min(rank, outer, full.shape[1])
    assert shorter[0].shape == (kept, *inner) and shorter[1].shape == (outer, kept)


@pytest.mark.parametrize(("inner", "outer"), SHAPES)
@pytest.mark.parametrize("rank", [8, 9, 1024])
def test_a_rank_that_it_has_not_changes_nothing(
    inner: tuple[int, ...], outer: int, rank: int
) -> None:
    down, up = pair(inner, outer)
    assert truncate(down, up, rank) == (down, up)


def test_what_needs_fewer_components_than_it_has_comes_back_whole() -> None:
    down, up = pair((24,), 16, rank=3)
    twice = torch.cat([down, down]), torch.cat([up, up], dim=1)
    shorter = truncate(*twice, 3)
    assert len(shorter[0]) == 3
    assert torch.allclose(product(*shorter), 2 * product(down, up), atol=1e-5)


def test_both_halves_are_of_the_same_size() -> None:
    """So that neither overflows a narrow dtype while the other vanishes."""
    down, up = truncate(*pair((24,), 16), 4)
    assert torch.allclose(down.norm(dim=1), up.norm(dim=0), rtol=1e-4)
