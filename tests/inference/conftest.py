"""Tiny real models on disk, and a worker driven by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.catalog import Catalog
from tests.inference.making import catalog_over


@pytest.fixture(scope="module", autouse=True)
def _gradients_again() -> Iterator[None]:
    """A worker turns them off on its thread, which is the tests'; the next file may train."""
    yield
    import torch

    torch.set_grad_enabled(True)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Saved pipelines with random weights, one folder each, by name."""
    from inference import skeletons

    root = tmp_path_factory.mktemp("models")
    pipes = {
        "flux": skeletons.tiny_flux(),
        "flux-cfg": skeletons.tiny_flux(guidance=False, seed=1),
        "sdxl": skeletons.tiny_sdxl(),
    }
    for name, pipe in pipes.items():
        pipe.save_pretrained(root / name)
    return {name: root / name for name in pipes}


@pytest.fixture(scope="session")
def catalog(folders: dict[str, Path]) -> Catalog:
    """All of them served, free sizes from 32 pixels."""
    return catalog_over(folders)
