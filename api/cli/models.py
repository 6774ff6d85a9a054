"""The table of what models.yaml serves."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

import inference
from inference.catalog import Catalog
from inference.hub import cache
from inference.hub.files import is_hub_id, weights_of
from inference.model_spec import ModelSpec
from inference.options.spec import requested

BUILTIN = "builtin:"


def table(catalog: Catalog) -> Table:
    """One row per model."""
    made = Table(box=None, pad_edge=False, show_edge=False)
    # room for one size, and for most names
    least = {"sizes": 9, "aliases": 19, "source": 9}
    for heading in ("model", "modes", "sizes", "defaults", "aliases", "source"):
        wraps = heading in least
        made.add_column(heading, no_wrap=not wraps, overflow="fold", min_width=least.get(heading))
    for spec in catalog.models.values():
        made.add_row(
            spec.name,
            "\n".join(spec.modes),
            sizes(spec),
            _defaults(spec),
            "\n".join(aliases(catalog, spec)),
            f"{spec.source}\n{_presence(spec)}",
        )
    return made


def sizes(spec: ModelSpec) -> str:
    """The sizes of a model in words, the default one first."""
    first = "x".join(map(str, spec.default_size))
    if not spec.sizes:
        limits = spec.limits
        return f"{first}, or sides of {limits.min_side} to {limits.max_side}"
    others = [f"{width}x{height}" for width, height in spec.sizes]
    return " ".join([first, *(size for size in others if size != first)])


def aliases(catalog: Catalog, spec: ModelSpec) -> list[str]:
    """The names that lead to a model in any of its modes."""
    return [
        name
        for name, alias in catalog.aliases.items()
        if any(spec.name in alias.models_for(mode) for mode in spec.modes)
    ]


def _defaults(spec: ModelSpec) -> str:
    chosen = spec.defaults
    asked = [
        f"{name} {option.requested}"
        for name, option in requested(spec).items()
        if option.requested != "auto"
    ]
    steps = f"{chosen.num_inference_steps} steps"
    return "\n".join([steps, f"guidance {chosen.guidance_scale:g}", *asked])


def _presence(spec: ModelSpec) -> str:
    """Whether the weights are on this machine; a hub's model is fetched when first loaded."""
    source = spec.source
    if source.startswith(BUILTIN):
        folder = Path(inference.__file__).parent / "demo" / source.removeprefix(BUILTIN)
    elif source.startswith((".", "/", "~")) or Path(source).exists():
        folder = Path(source)
    else:
        found = [cache.find(one) for one in weights_of(spec) if is_hub_id(one.repository)]
        return "fetched from the hub at first use" if None in found else "here"
    # base.json: a built-in model that takes its other parts from another
    is_there = any((folder / name).is_file() for name in ("model_index.json", "base.json"))
    return "here" if is_there else "missing"
