"""Whether the models that help around the pictures could be used here: looked up, and built."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from inference.catalog import Catalog
from inference.check.blueprint import reason, size_bytes
from inference.errors import ModelFailed
from inference.hub.files import Wanted, assistant_of, assistants_of
from inference.hub.sources import Sources
from inference.loading import first_line

# What each is read as, by what models.yaml calls it.
_READERS = {
    "rater, classifier": "AutoModelForImageClassification",
    "rater, clip": "AutoModelForZeroShotImageClassification",
    "enhancer": "AutoModelForCausalLM",
    "viewer": "AutoModelForImageTextToText",
}


@dataclass(slots=True, kw_only=True)
class AssistantReport:
    """One model of an assistant; with a problem it cannot be used."""

    name: str
    source: str
    device: str
    where: str = ""
    missing_bytes: int = 0
    weight_bytes: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def is_servable(self) -> bool:
        """Whether nothing stands against it."""
        return not self.problems


def check_assistants(
    catalog: Catalog, names: Iterable[str], sources: Sources
) -> tuple[AssistantReport, ...]:
    """The models of the named assistants; those that answer at an endpoint have none."""
    chosen = set(names)
    found = [one for one in assistants_of(catalog) if assistant_of(one) in chosen]
    return tuple(_check(catalog, one, sources) for one in found)


def _check(catalog: Catalog, wanted: Wanted, sources: Sources) -> AssistantReport:
    spec = getattr(catalog, assistant_of(wanted))
    told = AssistantReport(name=wanted.owner, source=wanted.repository, device=spec.device)
    try:
        place = sources.find(wanted)
        told.where, told.missing_bytes = place.where, place.missing_bytes
        model = _build(place.folders[0], _READERS[wanted.owner], spec.device)
    except Exception as error:
        # whatever files can be wrong about
        told.problems.append(reason(error))
        return told
    told.weight_bytes = size_bytes(model)
    if wanted.owner == "rater, classifier":
        told.problems += _missing_labels(spec.nsfw_labels, model.config.id2label.values())
    return told


def _build(folder: Path, reader: str, device: str) -> Any:
    """The model without memory, in the dtype that it would have; raises ModelFailed."""
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):
            model = getattr(transformers, reader).from_config(config, trust_remote_code=False)
    except Exception as error:
        # whatever a config can be wrong about
        raise ModelFailed(f"its config makes no {reader}: {first_line(error)}") from error
    # as it is read: on a CPU half precision is the slow way
    dtype = torch.float32 if device == "cpu" else config.dtype or torch.float32
    return model.to(dtype)


def _missing_labels(wanted: Iterable[str], labels: Iterable[str]) -> list[str]:
    known = list(labels)
    folded = {label.casefold() for label in known}
    return [
        f"nsfw_labels: it has no {name!r}; it has {', '.join(known)}"
        for name in wanted
        if name.casefold() not in folded
    ]
