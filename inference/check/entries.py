"""Whether what models.yaml names could be served here: looked up, built from configs, measured.

Weights are counted by the headers of their files, or from configs where there are none, and what a
picture takes beside them from a forward of shapes alone; see `blueprint` and `shapes`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch

from inference import loading
from inference.catalog import Catalog
from inference.check.assistants import check_assistants
from inference.check.blueprint import Blueprint, build, misfits, reason, see_file, size_bytes
from inference.check.cards import Card, Cards
from inference.check.classes import misses, unlike
from inference.check.fits import Need, Sizes, remedies
from inference.check.report import (
    CardReport,
    ModelReport,
    PartReport,
    PictureReport,
    Report,
)
from inference.check.shapes import Picture, pictures_of, working_bytes
from inference.errors import ModelFailed
from inference.hub.checkpoint import part_in, parts_of
from inference.hub.files import Kind, Wanted
from inference.hub.narrow import obstacle
from inference.hub.sources import Place, Sources
from inference.job import Mode
from inference.misfits import check_config
from inference.model_spec import ModelSpec
from inference.options import quantization
from inference.sizes import TIER_SIDES_PX


def check(
    catalog: Catalog,
    names: Sequence[str],
    cards: Sequence[Card],
    sources: Sources,
    assistants: Sequence[str] = (),
    *,
    any_card: bool = False,
) -> Report:
    """Every named entry, the models against the devices that they may be on.

    One `any_card` stands for whichever devices an entry names.
    """
    places = Cards(catalog, cards, any_card)
    smallest = min(cards, key=lambda one: one.memory_bytes)
    checks = []
    for name in names:
        homes = places.of(name)
        checks.append(_Check(catalog.models[name], homes or (smallest,), sources))
        if not homes:
            checks[-1].report.devices = ()
            checks[-1].report.problems.append(places.problem(name))
        elif any_card and catalog.models[name].devices:
            named = ", ".join(catalog.models[name].devices)
            checks[-1].report.notes.append(f"devices: {named} taken for {smallest.name}")
        checks[-1].run()
    for one in checks:
        one.tell_parts([other for other in checks if other is not one])
    return Report(
        device=smallest.name,
        memory_bytes=smallest.memory_bytes,
        devices=tuple(_together(card, checks) for card in cards),
        models=tuple(one.report for one in checks),
        assistants=check_assistants(catalog, assistants, sources),
    )


def _together(card: Card, checks: Sequence[_Check]) -> CardReport:
    sound = [one for one in checks if one.report.is_servable and card.name in one.report.devices]
    sizes = {key: size for one in sound for key, size in one.sizes_by_key.items()}
    return CardReport(
        name=card.name,
        memory_bytes=card.memory_bytes,
        models=tuple(one.report.name for one in sound),
        weight_bytes=sum(sizes.values()),
        working_bytes=max((one.working_bytes for one in sound), default=0),
    )


class _Check:
    """One entry on its way through the checks; what goes wrong in one leaves out those after."""

    def __init__(self, spec: ModelSpec, homes: Sequence[Card], sources: Sources) -> None:
        devices = tuple(one.name for one in homes)
        self.report = ModelReport(name=spec.name, source=spec.source, devices=devices)
        self.keys: dict[str, Hashable] = {}
        self.sizes_by_key: dict[Hashable, int] = {}
        self._spec = spec
        # elsewhere it may be of another dtype, and take something else
        self._homes = [one for one in homes if one.kind == homes[0].kind]
        self._device, self._memory_bytes = homes[0].name, homes[0].memory_bytes
        self._sources = sources
        self._kinds: dict[str, str] = {}

    def run(self) -> None:
        """Fill in the report."""
        known = [one.name for one in self._homes]
        if others := [one for one in self.report.devices if one not in known]:
            self.report.notes.append(f"not estimated on {', '.join(others)}, only on {known[0]}")
        self.report.dtype = str(loading.pick_dtype(self._spec, self._device)).partition(".")[2]
        try:
            if places := self._look_up():
                self._look_into(places[0])
        except Exception as error:
            # whatever files can be wrong about is the problem of their entry alone
            self.report.problems.append(reason(error))

    @property
    def working_bytes(self) -> int:
        """What a picture of the default size takes beside the weights, in the costliest mode."""
        default = _shown(self._spec.default_size)
        found = [one.working_bytes for one in self.report.pictures if one.size == default]
        return max(found, default=0)

    def tell_parts(self, others: Sequence[_Check]) -> None:
        """Once all entries are known: which part is whose too."""
        for name, key in self.keys.items():
            shared = tuple(one.report.name for one in others if key in one.sizes_by_key)
            size = self.sizes_by_key[key]
            kind = self._kinds[name]
            part = PartReport(name=name, kind=kind, size_bytes=size, shared_with=shared)
            self.report.parts.append(part)
        self.report.weight_bytes = sum(
            {key: self.sizes_by_key[key] for key in self.keys.values()}.values()
        )

    def _look_up(self) -> list[Place]:
        """All that the entry names, its own source first; nothing where that is not to be had."""
        found = []
        for number, wanted in enumerate(self._sources.of(self._spec)):
            try:
                place = self._sources.find(wanted)
                if not place.missing_bytes:
                    _see(wanted, place)
            except Exception as error:
                told = reason(error)
                self.report.problems.append(f"{wanted.owner}: {told}" if number else told)
                if not number:
                    return []
                continue
            self.report.missing_bytes += place.missing_bytes
            found.append(place)
        self.report.where = found[0].where
        return found

    def _look_into(self, place: Place) -> None:
        spec, dtype = self._spec, loading.pick_dtype(self._spec, self._device)
        plan = build(place.folders, dtype)
        self.report.problems += misses(spec, plan)
        # of a derived one the index is its base's
        if len(place.folders) == 1 and self.report.is_servable and (note := unlike(spec, plan)):
            self.report.notes.append(note)
        self._compare(place, plan)
        self._count(place, plan, dtype)
        if unmet := quantization.obstacle(spec, self._device):
            self.report.notes.append(f"quantization is left out: {unmet}")
        self._measure(place, plan, dtype)

    def _compare(self, place: Place, plan: Blueprint) -> None:
        """Configs against the family, and against the headers of files that are there."""
        denoiser = plan.part(*self._spec.rules.denoisers)
        if denoiser is not None:
            try:
                pipe = SimpleNamespace(config=plan.index)
                check_config(self._spec, pipe, denoiser.config)
            except ModelFailed as error:
                self.report.problems.append(str(error))
        held = parts_of(*place.folders)
        for name, module in plan.parts.items():
            if name in held and name not in place.replaced:
                try:
                    wrong = obstacle(held[name])
                    found = [wrong] if wrong else misfits(module, held[name])
                    self.report.problems += [f"{name}: {one}" for one in found]
                except Exception as error:
                    self.report.problems.append(f"{name}: {reason(error)}")
            elif place.missing_bytes == 0 and name not in place.replaced:
                self.report.problems.append(f"{name}: no safetensors file")

    def _count(self, place: Place, plan: Blueprint, dtype: torch.dtype) -> None:
        held = parts_of(*place.folders)
        for name, module in plan.parts.items():
            size = size_bytes(module)
            key: Hashable = place.identities.get(name)
            if name in held and not self.report.problems:
                size = held[name].size_bytes(dtype.itemsize)
                key = held[name].outline()
            if name in self._spec.rules.denoisers or key is None:
                key = (self._spec.name, name)
            self.keys[name] = key
            self.sizes_by_key[key] = size
            self._kinds[name] = type(module).__name__

    def _measure(self, place: Place, plan: Blueprint, dtype: torch.dtype) -> None:
        spec = self._spec
        weights = {name: self.sizes_by_key[key] for name, key in self.keys.items()}
        sizes = Sizes(spec=spec, weights=weights, plan=plan, device=self._device, dtype=dtype)
        known: dict[Picture, PictureReport | None] = {}
        for mode in spec.modes:
            for size in _sizes(spec):
                shown = pictures_of(spec, mode, size)
                if shown not in known:
                    need = self._need(plan, mode, size)
                    known[shown] = self._picture(sizes, need) if need is not None else None
                if (told := known[shown]) is not None:
                    self.report.pictures.append(replace(told, mode=mode))
        if not self.report.pictures:
            self.report.notes.append("what a picture takes is not known of its classes")
        self._tell_where_it_fits()

    def _tell_where_it_fits(self) -> None:
        default = _shown(self._spec.default_size)
        bad = [one for one in self.report.pictures if not one.fits and one.size == default]
        if not bad:
            return
        modes = ", ".join(dict.fromkeys(one.mode.value for one in bad))
        places = [one for one in self.report.devices if all(one in each.fits_on for each in bad)]
        if places:
            where = f"at its default size {default} it fits on {', '.join(places)} alone: {modes}"
            self.report.notes.append(f"{where}; name these as its devices")
        else:
            # it may be served where it is not estimated
            is_known = len(self._homes) >= len(self.report.devices)
            told = self.report.problems if is_known else self.report.notes
            told.append(f"does not fit at its default size {default}: {modes}")

    def _need(self, plan: Blueprint, mode: Mode, size: tuple[int, int]) -> Need | None:
        try:
            found = working_bytes(self._spec, plan, pictures_of(self._spec, mode, size))
        except Exception as error:
            # a config may be of a kind that is built, and that no forward of ours fits
            note = f"{mode} {size[0]}x{size[1]} was not measured: {loading.first_line(error)}"
            self.report.notes.append(note)
            return None
        return Need(mode, size, found) if found else None

    def _picture(self, sizes: Sizes, need: Need) -> PictureReport:
        total = sizes.needs_bytes(need)
        fits = total <= self._memory_bytes
        return PictureReport(
            mode=need.mode,
            size=_shown(need.size),
            needs_bytes=total,
            working_bytes=need.working_bytes,
            fits=fits,
            fits_on=tuple(one.name for one in self._homes if total <= one.memory_bytes),
            remedies=() if fits else tuple(remedies(sizes, need, self._memory_bytes)),
        )


def _see(wanted: Wanted, place: Place) -> None:
    """What stands beside a model's own weights, by its header; raises ValueError or OSError."""
    if wanted.kind is Kind.FILE:
        single = Path(wanted.repository).expanduser()
        see_file(single if single.is_file() else place.folders[-1] / wanted.path)
    if wanted.kind is Kind.PART:
        part = part_in(place.folders[-1] / wanted.path)
        if part is not None and (wrong := obstacle(part)):
            raise ValueError(wrong)


def _sizes(spec: ModelSpec) -> list[tuple[int, int]]:
    """The default size, and the largest it makes at each higher resolution."""
    if spec.sizes:
        largest = max(spec.sizes, key=lambda size: size[0] * size[1])
        return list(dict.fromkeys((spec.default_size, largest)))
    width, height = spec.default_size
    higher = [side for side in TIER_SIDES_PX.values() if side**2 > 1.2 * width * height]
    found = [spec.nearest_size(width, height, area=side**2) for side in higher]
    return list(dict.fromkeys((spec.default_size, *found)))


def _shown(size: tuple[int, int]) -> str:
    return "x".join(map(str, size))
