"""One command for all: what it asks can be asked, and what fails ends alone and is told."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import engine, plots, report, subjects, swap
from benchmarks.__main__ import Outcome, run, table
from benchmarks.options import ASKED, headlines
from benchmarks.questions import ON_CARD, ON_CPU, Question, on_card

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def without_gradients() -> Iterator[None]:
    torch.set_grad_enabled(False)
    yield
    torch.set_grad_enabled(True)


def parser_of(script: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = import_module(f"benchmarks.{script}").command_line()
    return made


@pytest.mark.parametrize("question", ON_CARD, ids=lambda one: one.script)
@pytest.mark.parametrize("is_quick", [True, False])
@pytest.mark.parametrize("own", [[], ["a", "b"]])
@pytest.mark.parametrize("scale", ["full", "tiny"])
def test_every_script_takes_what_the_command_asks_on_a_card(
    question: Question, is_quick: bool, own: list[str], scale: str
) -> None:
    asked = on_card(question, scale=scale, is_quick=is_quick, text=None, own=own)
    assert asked is not None
    common = ["--device", "cuda:0", "--checkpoints", "there", "--results", "here"]
    told = parser_of(question.script).parse_args([*common, *asked])
    names = subjects.names_of(told)
    assert set(names) <= (set(own) or set(subjects.SKELETONS)) and names
    assert (question.script != "swap") or len(names) == 2
    assert told.device == "cuda:0" and told.results == Path("here")
    if not own:
        assert told.scale == scale
    if question.script == "options" and told.only:
        assert set(told.only.split(";")) <= set(ASKED)


@pytest.mark.parametrize("question", ON_CPU, ids=lambda one: one.script)
def test_every_script_takes_what_the_command_asks_on_a_cpu(question: Question) -> None:
    for arguments in (question.full, question.quick):
        told = parser_of(question.script).parse_args([*arguments, "--results", "here"])
        assert getattr(told, "device", "cpu") == "cpu"


def test_a_question_of_two_models_is_left_out_where_one_is_named() -> None:
    asked = {
        one.script: on_card(one, scale="full", is_quick=False, text=None, own=["a"])
        for one in ON_CARD
    }
    assert asked.pop("swap") is None
    assert all(told is not None and told[:2] == ["--model", "a"] for told in asked.values())


@pytest.mark.slow
def test_the_whole_command_goes_on_after_what_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Question(script="memory", minutes=1, tiny=("--no-such-thing",), models=("klein",))
    rest = tuple(one for one in ON_CARD if one.script in ("swap", "lora"))
    monkeypatch.setattr(command, "ON_CARD", (broken, *rest))
    where = ["--checkpoints", str(tmp_path / "ck"), "--results", str(tmp_path / "res")]
    code = command.main(["gpu", "--device", "cpu", "--scale", "tiny", "--quick", *where])
    told = capsys.readouterr().out
    assert code == 1
    assert "unrecognized arguments: --no-such-thing" in told
    ends = told[told.rindex("\nmemory ") :]
    assert "memory     failed" in ends and "swap       done" in ends and "lora       done" in ends
    assert "first step of klein after a swap" in ends
    written = {path.name for path in (tmp_path / "res").iterdir()}
    assert written == {"swap.json", "swap.png", "lora.json", "lora.png"}
    found = json.loads((tmp_path / "res/swap.json").read_text())
    assert found["machine"]["cpu"] and found["scale"] == "tiny"
    for own in found["models"].values():
        assert 0 < own["floor_seconds"] < own["first_step_seconds"]


def test_a_script_that_takes_too_long_ends_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = tmp_path / "child"
    (tmp_path / "python").write_text(f"#!/bin/sh\nsleep 1000 &\necho $! > {note}\nwait\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    outcome = run("anything", [], tmp_path, 4.0)
    assert outcome.state == "took too long" and 4 <= outcome.seconds < 60
    child = int(note.read_text())
    until = time.monotonic() + 60
    while psutil.pid_exists(child) and time.monotonic() < until:
        if psutil.Process(child).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.05)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_figures_of_an_earlier_run_do_not_count_as_this_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("true"))
    (tmp_path / "swap.json").write_text("{}")
    assert run("swap", [], tmp_path, 10) == Outcome("swap", "failed", pytest.approx(0, abs=9))


def test_a_card_is_asked_for_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "name_of_card", lambda: "")
    assert command.main(["gpu"]) == 2
    assert "no NVIDIA GPU" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong", [["gpu", "--model", "a"], ["gpu", "--models", "m.yaml"], ["cpu", "--only", "swap"]]
)
def test_a_command_that_makes_no_sense_is_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit):
        command.parsed(wrong)


def test_the_table_tells_which_goals_are_met(tmp_path: Path) -> None:
    lines = [
        report.headline("faster", 1.8, least=1.7),
        report.headline("slower", 1.6, most=1.5),
        report.headline("just so", 2.0),
    ]
    path = report.save("swap", {"models": {}}, headlines=lines, folder=tmp_path)
    told = table([Outcome("swap", "done", 3.0, path), Outcome("lora", "failed")])
    assert "faster  (at least 1.7: met)" in told
    assert "slower  (at most 1.5: MISSED)" in told
    assert told.splitlines()[3].endswith("2.000  just so")
    assert told.splitlines()[4].startswith("lora       failed")


def test_the_fastest_options_are_told_apart_by_what_they_change() -> None:
    ways = {
        "none": {"times_as_fast": 1.0},
        "compile": {"times_as_fast": 1.5},
        "compile, torchao-int8": {"times_as_fast": 1.8},
        "attention sage": {"reasons": {"attention": "needs sageattention"}},
        "diffusers": {"times_as_fast": 9.0},
    }
    fastest, exact = headlines(ways, has_goals=True)
    assert fastest["value"] == 1.8 and fastest["is_met"]
    assert exact["what"].endswith(": compile") and "goal" not in exact
    assert "goal" not in headlines(ways, has_goals=False)[0]


def asked_of(folder: Path, **more: Any) -> argparse.Namespace:
    return argparse.Namespace(
        **{
            "models": None,
            "scale": "tiny",
            "text": "small",
            "checkpoints": folder,
            "device": "cpu",
            **more,
        }
    )


def test_a_checkpoint_takes_the_place_of_others_where_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asked_of(tmp_path)
    kept, gone = subjects.spec_named(asked, "flux-dev"), subjects.spec_named(asked, "sdxl")
    mine = tmp_path / "of-somebody-else"
    mine.mkdir()

    def usage(path: Path) -> SimpleNamespace:
        return SimpleNamespace(free=10**12 if not Path(gone.source).exists() else 10**6)

    monkeypatch.setattr(subjects.shutil, "disk_usage", usage)
    made = subjects.spec_named(asked, "klein", keep=["flux-dev"])
    assert Path(made.source).is_dir() and Path(kept.source).is_dir() and mine.is_dir()
    assert not Path(gone.source).exists()
    monkeypatch.setattr(subjects.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(SystemExit, match="--checkpoints"):
        subjects.spec_named(asked, "qwen-image", keep=["klein", "flux-dev"])


@pytest.mark.usefixtures("without_gradients")
def test_models_swap_though_the_disk_holds_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asked_of(tmp_path)
    monkeypatch.setattr(subjects, "fit_together", lambda asked, names: False)

    def usage(path: Path) -> SimpleNamespace:
        return SimpleNamespace(free=10**12 if not [*tmp_path.iterdir()] else 0)

    monkeypatch.setattr(subjects.shutil, "disk_usage", usage)
    # files are looked for again only after seconds, which full-size ones take to be written
    monkeypatch.setattr("inference.residency.reader._LOOK_SECONDS", 0.0)
    names = ["flux-dev", "klein"]
    served, told = swap.device_for_one(asked, names)
    assert [path.name for path in tmp_path.iterdir()] == ["klein-tiny-small"]
    specs = [subjects.spec_unwritten(asked, name) for name in names]
    found = swap.compare(served, specs, 1, 64)
    assert all(own["first_step_seconds"] > 0 for own in found.values())
    assert all(one.weight_bytes > 0 for one in told)
    served.close()


def test_the_time_of_an_action_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine.seconds_of(lambda: time.sleep(0.2), "cpu") < 0.1
    synchronized: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", synchronized.append)
    assert engine.seconds_of(lambda: time.sleep(0.2), "cuda:1") >= 0.2
    assert synchronized == ["cuda:1", "cuda:1"]


FIGURES = sorted(plots.RESULTS.rglob("*.json"))


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: "-".join(path.parts[-2:]))
def test_every_committed_figure_can_be_drawn_and_is_drawn_small(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / path.name
    shutil.copy(path, copy)
    drawn = plots.draw(copy)
    assert drawn is not None and 1000 < drawn.stat().st_size < 80_000
    assert path.with_suffix(".png").is_file(), "python -m benchmarks.plots"
    assert json.loads(path.read_text())["machine"]["cpu"]


def test_a_drawing_shows_every_row_and_leaves_out_what_failed() -> None:
    ways = {"none": {"times_as_fast": 1.2, "weight_bytes": 10**9}, "sage": {"reasons": {}}}
    speeds, sizes = plots.options({"ways": ways, "model": "m", "side": 64})
    assert speeds.rows == {"none": {"": 1.2}} and sizes.rows == {"none": {"": 1.0}}
    cell = {"throughput": 1.2, "p95": 0.8}
    ratios = {"sdxl": {"a": {"sequential": cell, "darkroom": cell}}}
    throughput, waits = plots.batching({"ratios": ratios})
    assert throughput.rows == {"sdxl: a": {"sequential": 1.2, "darkroom": 1.2}}
    assert waits.rows == {"sdxl: a": {"sequential": 0.8, "darkroom": 0.8}}
    models = {
        "a": {"first_step_seconds": 2, "resident_first_step_seconds": 1, "floor_seconds": 0.5}
    }
    (panel,) = plots.swap({"models": models})
    assert panel.rows == {"a": {"after a swap": 2, "resident": 1, "floor of the link": 0.5}}
