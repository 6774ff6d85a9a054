"""`darkroom models pull` against a hub on this machine, whole and in every way broken."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hub import COMMIT, Hub, digest, running, seen

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "inference" / "demo"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
ENTRY = """
  {name}:
    family: flux
    source: owner/{name}
    dtype: float32
    max_sequence_length: 24
    guidance_field: true_cfg_scale
    sizes: [128x128]
    defaults: {{num_inference_steps: 1}}
"""
MAIN = "from api.cli.commands import main; main()"
LORAS = "    loras: {stripes: {source: owner/stripes}}\n"

pytestmark = pytest.mark.timeout(240)

Darkroom = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running(Hub()) as one:
        one.add("owner/tiny", DEMO / "tiny-flux")
        yield one


@pytest.fixture
def darkroom(hub: Hub, tmp_path: Path) -> Darkroom:
    def run(
        *arguments: str, script: str = MAIN, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", script, *arguments],
            cwd=tmp_path,
            env=_cleaned() | hub.environment(tmp_path / "home") | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def _cleaned() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return kept | {"PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"}


def serve(folder: Path, *names: str, more: str = "") -> None:
    entries = "".join(ENTRY.format(name=name) for name in names)
    (folder / "models.yaml").write_text(f"models:{entries}{more}")


def snapshot(folder: Path, name: str = "tiny") -> Path:
    return folder / "home" / "hub" / f"models--owner--{name}" / "snapshots" / COMMIT


def downloaded(hub: Hub) -> set[str]:
    return {name for method, name, _ in hub.asked if method == "GET"}


def test_what_is_needed_comes_once_and_is_served_without_the_hub(
    hub: Hub, darkroom: Darkroom, tmp_path: Path
) -> None:
    unneeded = {
        "README.md": b"# A model",
        "flux1-dev.safetensors": b"the same in one file",
        "transformer/diffusion_pytorch_model.fp16.safetensors": b"narrower",
        "transformer/diffusion_pytorch_model.bin": b"\x80pickled",
        "transformer/diffusion_pytorch_model.bin.index.json": b"{}",
        "vae_1_0/config.json": b"{}",
    }
    hub.repositories["owner/tiny"] |= unneeded
    hub.add("owner/stripes", DEMO / "tiny-flux-stripes")
    serve(tmp_path, "tiny", more=LORAS)
    pulled = darkroom("models", "pull")
    assert pulled.returncode == 0, pulled.stderr
    assert "tiny: owner/tiny" in pulled.stdout and "tiny, LoRA stripes" in pulled.stdout
    came = {path.relative_to(DEMO / "tiny-flux") for path in (DEMO / "tiny-flux").rglob("*.*")}
    wanted = {path.as_posix() for path in came if path.suffix in (".json", ".safetensors", ".txt")}
    stripes = "pytorch_lora_weights.safetensors"
    assert downloaded(hub) == wanted - {"scores.json"} | {stripes}
    assert not downloaded(hub) & set(unneeded)

    hub.asked.clear()
    again = darkroom("models", "pull")
    assert again.returncode == 0 and again.stdout.count("here before") == 2
    assert downloaded(hub) == set()

    hub.repositories.clear()
    wish = ["generate", "a red circle", "--size", "128x128", "--lora", "stripes", "-o", "made.png"]
    made = darkroom(*wish, HF_HUB_OFFLINE="1")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "made.png").read_bytes().startswith(b"\x89PNG")


# The hub's own client would hand on so much at a time, and lose what came of less.
PIECE = 10 * 1024**2


def test_a_download_that_is_cut_goes_on_where_it_ended(
    hub: Hub, darkroom: Darkroom, tmp_path: Path
) -> None:
    """Within one pull, and in the next one after the hub has gone."""
    large = os.urandom(PIECE) + bytes(PIECE // 2)
    hub.repositories["owner/tiny"][WEIGHTS] = large
    serve(tmp_path, "tiny")
    hub.cut, hub.down_after_cut = {WEIGHTS: PIECE + 1}, True
    first = darkroom("models", "pull")
    assert first.returncode == 1
    assert f"tiny: owner/tiny: the hub at {hub.url} answered 503" in first.stderr
    assert first.stderr.endswith("1 of 1 could not be had\n")
    assert not (snapshot(tmp_path) / WEIGHTS).exists()

    hub.cut.clear()
    hub.asked.clear()
    second = darkroom("models", "pull")
    assert second.returncode == 0, second.stderr
    assert seen(hub, WEIGHTS)["GET"] == [f"bytes={PIECE + 1}-"]
    assert WEIGHTS in downloaded(hub)
    assert (snapshot(tmp_path) / WEIGHTS).read_bytes() == large

    shutil.rmtree(tmp_path / "home")
    hub.cut, hub.down_after_cut = {WEIGHTS: PIECE + 1}, False
    hub.asked.clear()
    third = darkroom("models", "pull")
    assert third.returncode == 0, third.stderr
    assert seen(hub, WEIGHTS)["GET"] == ["", f"bytes={PIECE + 1}-"]
    assert (snapshot(tmp_path) / WEIGHTS).read_bytes() == large


def test_what_cannot_be_had_says_why_and_the_rest_comes(
    hub: Hub, darkroom: Darkroom, tmp_path: Path
) -> None:
    tiny = hub.repositories["owner/tiny"]
    names = ("gated", "missing", "pickled", "plain", "lost", "sized", "damaged", "two-faced")
    small = {name: tiny[name] for name in tiny if name.startswith("scheduler")}
    index = b'{"_class_name": "FluxPipeline", "transformer": ["diffusers", "X"]}'
    one = {"model_index.json": index, **small}
    part = "transformer/diffusion_pytorch_model"
    hub.repositories |= {
        "owner/gated": one,
        "owner/pickled": {**one, f"{part}.bin": b"\x80"},
        "owner/plain": {"README.md": b"no model"},
        "owner/lost": {
            **one,
            f"{part}.safetensors.index.json": b'{"weight_map": {"a": "lost.safetensors"}}',
        },
        "owner/sized": {**one, f"{part}.a.safetensors": b"short"},
        "owner/damaged": {**one, f"{part}.b.safetensors": b"what it was"},
        "owner/two-faced": {**one, f"{part}.c.safetensors": b"one thing"},
    }
    hub.gated = {"owner/gated"}
    hub.wrong_size = {f"{part}.a.safetensors"}
    hub.damaged = {f"{part}.b.safetensors"}
    hub.wrong_etag = {f"{part}.c.safetensors"}
    serve(tmp_path, *names, "tiny")
    pulled = darkroom("models", "pull")
    assert pulled.returncode == 1
    assert "could not be had; the others are here" in pulled.stderr
    told = {
        name: line.partition(": ")[2]
        for line in pulled.stderr.splitlines()
        if (name := line.partition(": ")[0]) in names
    }
    assert set(told) == set(names)
    assert f"accepted at {hub.url}/owner/gated" in told["gated"] and "HF_TOKEN" in told["gated"]
    assert f"there is no {hub.url}/owner/missing" in told["missing"]
    assert "transformer of owner/pickled has pickled weights alone" in told["pickled"]
    assert "no model_index.json" in told["plain"]
    assert "transformer/lost.safetensors, which it lists" in told["lost"]
    assert "came damaged" in told["sized"] and "came damaged" in told["damaged"]
    assert "tells of two contents" in told["two-faced"]
    assert "8 of 9 could not be had" in pulled.stderr
    assert pulled.stdout.startswith("tiny: owner/tiny") and len(pulled.stdout.splitlines()) == 1
    assert not list((tmp_path / "home").rglob("*.part"))


LOAD = """
from inference.catalog import load_catalog
from inference.errors import ModelFailed
from inference.loading import read_pipelines
from pathlib import Path
for spec in load_catalog(Path("models.yaml")).models.values():
    try:
        read_pipelines(spec, "cpu")
    except ModelFailed as error:
        print(error)
"""


def test_a_server_that_cannot_have_a_model_says_why_too(
    hub: Hub, darkroom: Darkroom, tmp_path: Path
) -> None:
    hub.repositories["owner/gated"] = hub.repositories["owner/tiny"]
    hub.gated = {"owner/gated"}
    serve(tmp_path, "gated", "missing")
    gated, missing = darkroom(script=LOAD).stdout.splitlines()
    assert gated.startswith("owner/gated: gated: its terms have to be accepted at")
    assert gated.endswith("and HF_TOKEN set to a token of the account that did")
    assert missing.startswith(f"owner/missing: there is no {hub.url}/owner/missing")
    with_token = darkroom(script=LOAD, HF_TOKEN="hf_given").stdout.splitlines()
    assert with_token[0].endswith("by the account of the token that is set")
    away = darkroom(script=LOAD, HF_HUB_OFFLINE="1").stdout.splitlines()
    assert all("HF_HUB_OFFLINE keeps the hub away" in line for line in away)


def test_check_sees_what_is_to_be_fetched_and_leaves_the_cache_alone(
    hub: Hub, darkroom: Darkroom, tmp_path: Path
) -> None:
    serve(tmp_path, "tiny")
    before = darkroom("models", "check", "--json")
    assert before.returncode == 0, before.stderr
    (told,) = json.loads(before.stdout)["models"]
    weights = (DEMO / "tiny-flux").rglob("*.safetensors")
    assert told["where"] == "on the hub" and told["servable"]
    texts = [name for name in downloaded(hub) if not name.endswith(".json")]
    assert told["missing_bytes"] >= sum(path.stat().st_size for path in weights) and not texts
    assert not (tmp_path / "home" / "hub").exists()

    assert darkroom("models", "pull").returncode == 0
    after = darkroom("models", "check", "--json", HF_HUB_OFFLINE="1")
    (here,) = json.loads(after.stdout)["models"]
    assert here["where"] == "in the hub's cache" and here["missing_bytes"] == 0
    assert here["parts"] == told["parts"] and here["pictures"] == told["pictures"]

    next((snapshot(tmp_path) / "vae").glob("*.safetensors")).resolve().unlink()
    gone = darkroom("models", "check", HF_HUB_OFFLINE="1")
    assert gone.returncode == 1
    assert "CANNOT BE SERVED" in gone.stdout


def test_what_was_spoilt_here_is_fetched_anew(hub: Hub, darkroom: Darkroom, tmp_path: Path) -> None:
    serve(tmp_path, "tiny")
    assert darkroom("models", "pull").returncode == 0
    kept = snapshot(tmp_path) / WEIGHTS
    whole = kept.read_bytes()
    kept.resolve().write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    hub.asked.clear()
    pulled = darkroom("models", "pull", "tiny")
    assert pulled.returncode == 0, pulled.stderr
    assert downloaded(hub) == {WEIGHTS}
    assert kept.read_bytes() == whole


def test_a_name_that_is_no_model_is_refused(darkroom: Darkroom, tmp_path: Path) -> None:
    serve(tmp_path, "tiny")
    refused = darkroom("models", "pull", "tinny")
    assert refused.returncode == 2
    assert "no model 'tinny' in models.yaml, only tiny" in refused.stderr
    size = darkroom("models", "check", "--memory", "24 apples")
    assert size.returncode == 2 and "no size like 24GB" in size.stderr
    misplaced = darkroom("models", "--models", "models.yaml", "check")
    assert misplaced.returncode == 2 and "goes after the command" in misplaced.stderr


@pytest.mark.parametrize("says_nothing", [False, True])
def test_a_pull_that_is_stopped_ends_at_once_and_goes_on_later(
    hub: Hub, darkroom: Darkroom, tmp_path: Path, says_nothing: bool
) -> None:
    large = os.urandom(3 * PIECE)
    hub.repositories["owner/tiny"][WEIGHTS] = large
    hub.piece_bytes, hub.slow_seconds = PIECE // 2, 60.0
    if says_nothing:
        hub.silent = {WEIGHTS: PIECE // 3}
    serve(tmp_path, "tiny")
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "models", "pull"],
        cwd=tmp_path,
        env=_cleaned() | hub.environment(tmp_path / "home"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    part = snapshot(tmp_path).parents[1] / "blobs" / f"{digest(WEIGHTS, large)}.part"
    begin = time.monotonic()
    while not part.exists() or part.stat().st_size < PIECE // 3:
        assert time.monotonic() - begin < 60
        time.sleep(0.05)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    # about a second on quiet cores; a line that nothing comes by is given up after ten
    assert time.monotonic() - begin < 8
    held = part.stat().st_size
    assert 0 < held < PIECE

    hub.hurry()
    hub.asked.clear()
    assert darkroom("models", "pull").returncode == 0
    assert seen(hub, WEIGHTS)["GET"] == [f"bytes={held}-"]
    assert (snapshot(tmp_path) / WEIGHTS).read_bytes() == large
