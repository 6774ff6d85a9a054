"""`darkroom models check`: which models can be served here, in lines or as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from api.cli.pull import chosen
from api.cli.settings import settings_of
from api.cli.terminal import Failure, UsageError, out, say
from inference.catalog import Catalog, load_catalog
from inference.errors import CatalogError, DeviceMissing

if TYPE_CHECKING:
    from api.settings import Settings
    from inference.check.assistants import AssistantReport
    from inference.check.report import CardReport, ModelReport, PictureReport, Report

_UNITS = {"": 1, "MB": 10**6, "GB": 10**9, "MIB": 2**20, "GIB": 2**30}
# What a card is called where there is none.
_ANY_CARD = "cuda"


def run(names: Sequence[str], memory: str | None, as_json: bool, models: Path | None) -> None:
    """Tell of the named entries, or all; raises UsageError, or Failure if one cannot be served."""
    settings = settings_of(models=models)
    try:
        catalog = load_catalog(settings.models)
    except CatalogError as error:
        raise UsageError(str(error)) from None
    todo = chosen(catalog, names, settings.models)
    size = None if memory is None else size_of(memory)
    say("reading configs")
    report = _check(catalog, todo, settings, size)
    if as_json:
        told = asdict(report)
        for kind in ("models", "assistants"):
            for one, entry in zip(told[kind], getattr(report, kind), strict=True):
                one["servable"] = entry.is_servable
        out().print(json.dumps(told, indent=2), markup=False)
    else:
        for line in _lines(report):
            out().print(line, markup=False)
    bad = [one.name for one in report.models if not one.is_servable]
    bad += [one.name for one in report.assistants if not one.is_servable]
    if bad:
        raise Failure(f"cannot be served: {'; '.join(bad)}")


def _check(
    catalog: Catalog, chosen: tuple[list[str], list[str]], settings: Settings, size: int | None
) -> Report:
    from inference.check.cards import Card, cards_of
    from inference.check.entries import check
    from inference.hub.sources import Sources

    any_card = size is not None
    if size is not None:
        cards: tuple[Card, ...] = (Card(_ANY_CARD, size),)
    else:
        try:
            cards = cards_of(settings.devices, settings.device_memory_bytes)
        except DeviceMissing as error:
            raise Failure(f"DARKROOM_DEVICES: {error}") from None
    with Sources() as sources:
        models, assistants = chosen
        return check(catalog, models, cards, sources, assistants, any_card=any_card)


def size_of(text: str) -> int:
    """Bytes of a size like "24GB"; raises UsageError."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    unit = found[2].upper() if found else ""
    if found is None or unit not in _UNITS or not float(found[1]):
        raise UsageError(f"{text!r} is no size like 24GB or 24GiB", "memory")
    return int(float(found[1]) * _UNITS[unit])


def _lines(report: Report) -> Iterator[str]:
    for card in report.devices:
        place = f"any card (as {card.name})" if card.name == _ANY_CARD else card.name
        yield f"{place}: models may take {_size(card.memory_bytes)}"
    for one in report.models:
        yield ""
        yield from _model(one, several=len(report.devices) > 1)
    for assistant in report.assistants:
        yield ""
        yield from _assistant(assistant)
    # where none can be served nothing can be said of all
    if told := [_together(card, report) for card in report.devices if card.models]:
        yield ""
        yield from told


def _together(card: CardReport, report: Report) -> str:
    all_bytes = card.weight_bytes + card.working_bytes
    turns = "room for all at once" if all_bytes <= card.memory_bytes else "they take turns"
    is_all = len(card.models) == len(report.models)
    whose = "all" if is_all else f"the {len(card.models)} that can be served"
    beside = f"and {_size(card.working_bytes)} for a picture"
    where = f"{card.name}: " if len(report.devices) > 1 else ""
    weights = f"weights of {whose}, shared parts once: {_size(card.weight_bytes)}"
    return f"{where}{weights}, {beside}; {turns}"


def _assistant(one: AssistantReport) -> Iterator[str]:
    yield f"{one.name}: {'can be used' if one.is_servable else 'CANNOT BE USED'}"
    yield from _found(one)
    if one.weight_bytes:
        yield f"  weights  {_size(one.weight_bytes)} on {one.device}"


def _found(one: ModelReport | AssistantReport) -> Iterator[str]:
    missing = f", {_size(one.missing_bytes)} to be fetched" if one.missing_bytes else ""
    yield f"  source   {one.source}{', ' + one.where if one.where else ''}{missing}"
    for problem in one.problems:
        yield f"  problem  {problem}"


def _model(one: ModelReport, *, several: bool) -> Iterator[str]:
    yield f"{one.name}: {'can be served' if one.is_servable else 'CANNOT BE SERVED'}"
    yield from _found(one)
    if several and one.devices:
        yield f"  devices  {', '.join(one.devices)}; as on {one.devices[0]}, the smallest"
    for note in one.notes:
        yield f"  note     {note}"
    if one.parts:
        yield f"  weights  {_size(one.weight_bytes)} in {one.dtype}"
    for part in one.parts:
        shared = f", also of {', '.join(part.shared_with)}" if part.shared_with else ""
        yield f"           {part.name} {_size(part.size_bytes)}{shared}"
    # modes that take the same are told in one line
    alike: dict[PictureReport, list[str]] = {}
    for picture in one.pictures:
        alike.setdefault(replace(picture, mode=one.pictures[0].mode), []).append(picture.mode.value)
    for picture, modes in alike.items():
        yield from _picture(picture, ", ".join(modes))


def _picture(one: PictureReport, modes: str) -> Iterator[str]:
    verdict = "fits" if one.fits else "DOES NOT FIT"
    if not one.fits and one.fits_on:
        verdict = f"fits on {', '.join(one.fits_on)} alone"
    yield (
        f"  {modes} at {one.size}: about {_size(one.needs_bytes)}, "
        f"{_size(one.working_bytes)} of it beside the weights: {verdict}"
    )
    for number, remedy in enumerate(one.remedies):
        yield f"           {'or' if number else 'fits'} with {remedy}"
    if not one.fits and not one.remedies:
        yield "           and with no option that is known"


def _size(size: int) -> str:
    if size < 10**5:
        return f"{size} bytes" if size != 1 else "1 byte"
    return f"{size / 1e9:.1f} GB" if size >= 10**8 else f"{size / 1e6:.1f} MB"
