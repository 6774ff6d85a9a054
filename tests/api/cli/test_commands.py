"""The command line: what it prints, writes and exits with, in process and as a process."""

from __future__ import annotations

import io
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from PIL import Image
from typer.testing import CliRunner, Result

from api.build import build
from api.cli import remote
from api.cli import serve as cli_serve
from api.cli.commands import app
from api.cli.remote import events_of
from api.settings import Settings
from inference.catalog import Catalog
from inference.errors import ModelFailed, PipelineFailed
from tests.api.http.served import Served, serving, until
from tests.api.ports import free_port
from tests.api.scripted import ScriptedEngine


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every command runs in an empty folder, and finds no server where it looks by itself."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("DARKROOM_PORT", str(free_port()))
    return here


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> ScriptedEngine:
    """The engine that `generate` starts by itself."""
    engine = ScriptedEngine()
    monkeypatch.setattr("api.build.build_engine", lambda catalog, settings: engine)
    monkeypatch.setattr("api.cli.own_engine.configure_logging", lambda level: None)
    return engine


def darkroom(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def picture(path: Path, colour: str = "red", size: tuple[int, int] = (64, 64)) -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


class TestModels:
    def test_it_shows_what_is_shipped(self) -> None:
        shown = darkroom("models").stdout
        for word in ("tiny-flux", "inpaint", "144x80", "8 steps", "nano-banana-pro", "builtin:"):
            assert word in shown

    def test_a_models_yaml_in_the_folder_is_preferred(self, folder: Path) -> None:
        (folder / "models.yaml").write_text("models: {mine: {family: sdxl, source: ./weights}}")
        shown = darkroom("models").stdout
        assert "mine" in shown
        assert "missing" in shown

    def test_a_bad_file_is_told_in_a_line(self, folder: Path) -> None:
        (folder / "bad.yaml").write_text("models:\n  m: {family: flux, sorce: x}\n")
        said = darkroom("models", "--models", "bad.yaml", code=2).stderr.splitlines()
        assert said[0] == "darkroom: bad.yaml:2: models.m: needs 'source'"
        assert "did you mean 'source'?" in said[1]

    def test_a_variable_that_nothing_reads_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DARKROOM_PROT", "1")
        assert "did you mean DARKROOM_PORT?" in darkroom("models", code=2).stderr


class TestGenerateRemotely:
    def test_it_writes_the_servers_picture(self, server: Served, folder: Path) -> None:
        said = darkroom("generate", "a", "--server", server.url, "--seed", 7, "--size", "1024x768")
        # the server of this very process logs before it
        assert said.stdout.splitlines()[-1] == "out.png  128x96  seed 7"
        told = server.client.get("/darkroom/generations").json()["generations"][0]
        stored = server.client.get(f"{told['links']['self']}/images/0").content
        assert (folder / "out.png").read_bytes() == stored

    def test_a_server_that_is_named_may_be_slow(
        self, server: Served, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One that is only looked for has to answer soon, or the picture is made here."""
        monkeypatch.setattr(remote, "GREET_SECONDS", 1e-9)
        darkroom("generate", "a", "--server", server.url)
        assert (folder / "out.png").exists()

    def test_every_flag_reaches_the_server(self, server: Served) -> None:
        flags: dict[str, Any] = {"model": "nano-banana", "negative": "blur", "ratio": "9:16"}
        flags |= {"quality": "high", "count": 2, "seed": 4, "steps": 3, "guidance": 2.5}
        pairs = [part for name, value in flags.items() for part in (f"--{name}", value)]
        darkroom("generate", "a fox", "--server", server.url, *pairs)
        told = server.client.get("/darkroom/generations").json()["generations"][0]
        assert (told["prompt"], told["requested_model"]) == ("a fox", "nano-banana")
        assert (told["negative_prompt"], told["seeds"]) == ("blur", [4, 5])
        assert (told["width"], told["height"]) == (80, 144)
        assert (told["num_inference_steps"], told["guidance_scale"]) == (3, 2.5)

    def test_several_pictures_are_numbered(self, server: Served, folder: Path) -> None:
        darkroom("generate", "a", "--server", server.url, "-n", 3, "--seed", 255, "-o", "x.png")
        names = ["x-1.png", "x-2.png", "x-3.png"]
        assert sorted(path.name for path in folder.iterdir()) == names
        with Image.open(folder / "x-2.png") as second:
            assert second.getpixel((0, 0)) == (0, 1, 0)

    @pytest.mark.parametrize(("name", "form"), [("x.jpg", "JPEG"), ("x.WEBP", "WEBP")])
    def test_the_name_chooses_the_format(
        self, server: Served, folder: Path, name: str, form: str
    ) -> None:
        darkroom("generate", "a", "--server", server.url, "-o", name)
        with Image.open(folder / name) as made:
            assert made.format == form

    def test_pictures_go_along(self, server: Served, folder: Path) -> None:
        source, mask = picture(folder / "s.png"), picture(folder / "m.png", "white")
        flags = ("--image", source, "--mask", mask, "--strength", 0.9)
        darkroom("generate", "a", "--server", server.url, *flags)
        told = server.client.get("/darkroom/generations").json()["generations"][0]
        assert (told["mode"], told["strength"]) == ("inpaint", 0.9)

    def test_what_is_said_of_pictures_goes_along(self, server: Served, folder: Path) -> None:
        source, mask = picture(folder / "s.png"), picture(folder / "m.png", "white")
        flags = ("--image", source, "--mask", mask, "--mask-blur", 6, "--downsizing-mp", 0.5)
        darkroom("generate", "a", "--server", server.url, "--no-offloading", *flags)
        told = server.client.get("/darkroom/generations").json()["generations"][0]
        assert (told["mode"], told["mask_blur"], told["downsizing_mp"]) == ("inpaint", 6, 0.5)
        darkroom("generate", "a", "--server", server.url, "--image", source, "--mode", "img2img")
        told = server.client.get("/darkroom/generations").json()["generations"][0]
        assert (told["mode"], told["mask_blur"]) == ("img2img", None)

    def test_loras_share_a_strength_and_a_rank(self, server: Served, folder: Path) -> None:
        flags = ("--lora", "stripes", "--lora-strength", -0.5, "--lora-rank", 2)
        darkroom("generate", "a", "--server", server.url, *flags)
        told = server.client.get("/darkroom/generations").json()["generations"][0]
        assert told["loras"] == [{"name": "stripes", "strength": -0.5, "rank": 2}]

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            (("--steps", 999), "num_inference_steps must lie between 1 and 50, not 999 (--steps)"),
            (("--ratio", "wide"), "'wide' is not a ratio like 16:9 (--ratio)"),
            (("--model", "nothing"), "no model 'nothing' here"),
            (("--count", 99), "count must lie between 1 and 20"),
            (("--image", "notes.txt"), "not a picture"),
            (("--sampler", "euler"), "'tiny-flux' has no sampler 'euler'"),
            (("--mask-blur", 3), "mask_blur needs a mask; send one or leave it out (--mask-blur)"),
            (("--downsizing-mp", 1), "needs an input picture to shrink (--downsizing-mp)"),
            (("--offloading",), "keeps its weights on its device, since its entry in models.yaml"),
            (("--reference", "style:0.5=dot.png"), "cannot take style from a reference"),
            (("--reference", "style:2=dot.png"), "(--reference)"),
            (
                (*("--model", "tiny-flux", "--image", "dot.png"), "--image", "dot.png"),
                "takes at most 1 source image(s)",
            ),
        ],
    )
    def test_a_refusal_names_the_flag(
        self, server: Served, folder: Path, flags: tuple[object, ...], said: str
    ) -> None:
        (folder / "notes.txt").write_text("no picture")
        picture(folder / "dot.png")
        answer = darkroom("generate", "a", "--server", server.url, *flags, code=2)
        last = answer.stderr.splitlines()[-1]
        assert said in last
        assert last.startswith("darkroom: ")

    def test_a_failed_task_is_no_usage_error(self, server: Served, folder: Path) -> None:
        server.script.fails = lambda job, index: PipelineFailed("the pipeline broke")
        try:
            said = darkroom("generate", "a", "--server", server.url, code=1).stderr
        finally:
            server.script.fails = lambda job, index: None
        assert "darkroom: " in said
        assert not list(folder.iterdir())

    def test_why_a_model_failed_is_told(self, server: Served, folder: Path) -> None:
        server.script.fails = lambda job, index: ModelFailed("/models/flux is no folder")
        try:
            said = darkroom("generate", "a", "--server", server.url, code=1).stderr
        finally:
            server.script.fails = lambda job, index: None
        last = "darkroom: the model 'tiny-flux' could not be loaded: /models/flux is no folder"
        assert said.splitlines()[-1] == last

    def test_the_others_come_when_one_fails_there(self, server: Served, folder: Path) -> None:
        server.script.fails = lambda job, index: PipelineFailed("it broke") if index == 1 else None
        try:
            said = darkroom("generate", "a", "--server", server.url, "-n", 3, code=1)
        finally:
            server.script.fails = lambda job, index: None
        assert sorted(path.name for path in folder.iterdir()) == ["out-1.png", "out-3.png"]
        assert "darkroom: picture 2: it broke" in said.stderr
        assert "darkroom: 1 of 3 pictures were not made" in said.stderr

    def test_what_answers_without_being_a_darkroom_is_none(self, local: ScriptedEngine) -> None:
        with socket.create_server(("127.0.0.1", 0)) as deaf:
            url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
            said = darkroom("generate", "a", "--server", url, code=2).stderr
        assert said == f"darkroom: no Darkroom answers at {url} (--server)\n"

    def test_a_server_that_is_no_url_is_told(self) -> None:
        said = darkroom("generate", "a", "--server", "localhost", code=2).stderr
        assert "'localhost' is not a URL" in said


class TestGenerateHere:
    def test_it_starts_an_engine_where_no_server_answers(
        self, local: ScriptedEngine, folder: Path
    ) -> None:
        said = darkroom("generate", "a", "--seed", 9, "--ratio", "16:9")
        assert said.stdout == "out.png  144x80  seed 9\n"
        assert said.stderr == "loading tiny-flux\n"
        with Image.open(folder / "out.png") as made:
            assert (made.size, made.getpixel((0, 0))) == ((144, 80), (9, 0, 0))

    def test_its_engine_is_closed_afterwards(self, local: ScriptedEngine) -> None:
        darkroom("generate", "a")
        until(lambda: not local.status().devices[0].alive)

    def test_pictures_reach_the_engine(self, local: ScriptedEngine, folder: Path) -> None:
        source = picture(folder / "s.png")
        darkroom("generate", "a", "--image", source)
        assert list(local.pictures.values()) == [source.read_bytes()]

    def test_a_picture_is_of_its_sources_shape(self, local: ScriptedEngine, folder: Path) -> None:
        source = picture(folder / "s.png", size=(600, 800))
        assert "96x128" in darkroom("generate", "a", "--image", source).stdout

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            (("--steps", 999), "(--steps)"),
            (("--size", "12"), "'12' is not a size like 1024x768 (--size)"),
            (("--strength", "0.5"), "strength needs a source image"),
            (("--mask", "none.png"), "none.png: No such file or directory (--mask)"),
            (("--image", "notes.txt"), "image is not a picture"),
            (("--reference", "notes.txt"), "is not TAG=FILE or TAG:WEIGHT=FILE of style"),
            (("--reference", "style:much=notes.txt"), "'much' is no weight (--reference)"),
            (("-o", "out.gif"), "the name must end in .png, .jpg, .jpeg, .webp (--output)"),
            (("-o", "no/out.png"), "no: no such folder (--output)"),
            (("--models", "none.yaml"), "none.yaml: No such file or directory"),
        ],
    )
    def test_a_refusal_comes_before_the_engine(
        self, local: ScriptedEngine, folder: Path, flags: tuple[object, ...], said: str
    ) -> None:
        (folder / "notes.txt").write_text("no picture")
        assert said in darkroom("generate", "a", *flags, code=2).stderr
        assert local.orders == []

    def test_the_others_are_written_when_one_fails(
        self, local: ScriptedEngine, folder: Path
    ) -> None:
        local.fails = lambda job, index: PipelineFailed("it broke") if index == 1 else None
        said = darkroom("generate", "a", "-n", 3, code=1)
        assert sorted(path.name for path in folder.iterdir()) == ["out-1.png", "out-3.png"]
        assert "darkroom: picture 2: it broke" in said.stderr
        assert "darkroom: 1 of 3 pictures were not made" in said.stderr

    def test_a_single_failure_gives_its_reason(self, local: ScriptedEngine) -> None:
        local.fails = lambda job, index: PipelineFailed("it broke")
        assert "darkroom: it broke" in darkroom("generate", "a", code=1).stderr


class TestServe:
    def test_a_busy_port_is_told_in_a_line(self, local: ScriptedEngine) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            said = darkroom("serve", "--port", port, code=2).stderr.splitlines()[-1]
        expected = f"cannot listen on 127.0.0.1 port {port}: Address already in use (--port)"
        assert said == f"darkroom: {expected}"

    def test_an_address_of_another_machine_is_told_in_a_line(self, local: ScriptedEngine) -> None:
        said = darkroom("serve", "--host", "192.0.2.1", "--port", 0, code=2).stderr.splitlines()[-1]
        expected = "cannot listen on 192.0.2.1 port 0: Cannot assign requested address (--host)"
        assert said == f"darkroom: {expected}"

    def test_a_port_that_is_none_is_refused(self) -> None:
        said = darkroom("serve", "--port", 99999, code=2).stderr
        assert said.startswith("darkroom: --port 99999: ")
        assert said.count("\n") == 1

    def test_a_bad_models_yaml_stops_the_start(self, folder: Path) -> None:
        (folder / "models.yaml").write_text("models: [")
        said = darkroom("serve", "--port", 0, code=2).stderr
        assert "darkroom: models.yaml:1: " in said.splitlines()[-1]

    def test_an_open_address_needs_a_key(
        self, local: ScriptedEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without listening there: the test's server is on loopback whatever it was asked."""
        on_loopback = cli_serve.bind("127.0.0.1", 0)
        monkeypatch.setattr(cli_serve, "bind", lambda host, port: on_loopback)
        with on_loopback:
            said = darkroom("serve", "--host", "0.0.0.0", code=2).stderr
        assert "0.0.0.0 is not loopback, and there is no API key yet" in said
        assert "darkroom keys create NAME" in said

    @pytest.mark.parametrize(
        ("host", "loopback", "url"),
        [
            ("127.0.0.1", True, "http://127.0.0.1:8000"),
            ("localhost", True, "http://localhost:8000"),
            ("::1", True, "http://[::1]:8000"),
            ("0.0.0.0", False, "http://127.0.0.1:8000"),
            ("::", False, "http://[::1]:8000"),
            ("192.0.2.7", False, "http://192.0.2.7:8000"),
            ("gpu.example", False, "http://gpu.example:8000"),
        ],
    )
    def test_addresses(self, host: str, loopback: bool, url: str) -> None:
        assert Settings(host=host).is_loopback is loopback
        assert cli_serve.address(host, 8000) == url

    def test_flags_win_over_variables(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        seen: list[Settings] = []

        def run(settings: Settings) -> int:
            seen.append(settings)
            return 0

        monkeypatch.setattr(cli_serve, "run", run)
        monkeypatch.setenv("DARKROOM_PORT", "8001")
        monkeypatch.setenv("DARKROOM_DATA_DIR", "elsewhere")
        darkroom("serve", "--port", 8002)
        assert (seen[0].port, seen[0].data_dir) == (8002, Path("elsewhere"))
        assert seen[0].models.name == "models.yaml"
        assert seen[0].models.is_file()


def test_it_says_its_version() -> None:
    assert darkroom("--version").stdout.startswith("darkroom 0.")


def test_help_comes_without_the_weight_of_a_server() -> None:
    script = (
        "import sys, api.cli.commands;"
        "print([m for m in ('torch', 'fastapi', 'PIL') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_events_are_read_as_the_standard_has_them() -> None:
    lines = io.StringIO(
        ': ping\n\nretry: 2000\n\nevent: queued\ndata: {"position":\ndata: 1}\n\n'
        'data: {}\n\nevent: done\nid: 7\ndata: {"id": "x"}\n\nevent: cut\ndata: {'
    )
    told = list(events_of(line.rstrip("\n") for line in lines))
    assert told == [("queued", {"position": 1}), ("message", {}), ("done", {"id": "x"})]


def test_links_are_signed_with_a_new_key(tmp_path: Path) -> None:
    file = tmp_path / "data" / "link_keys"
    first = darkroom("links", "rotate", "--data-dir", file.parent).stdout.strip()
    second = darkroom("links", "rotate", "--data-dir", file.parent).stdout.strip()
    assert [line.split()[0] for line in file.read_text().splitlines()] == [second, first]
    file.write_text("no key")
    darkroom("links", "rotate", "--data-dir", file.parent, code=2)
    assert file.read_text() == "no key"


async def test_a_database_that_goes_away_spoils_no_greeting(tmp_path: Path, root: Path) -> None:
    settings = Settings(data_dir=tmp_path, models=root / "models.yaml", disk_floor_bytes=0)
    services = build(settings, engine=ScriptedEngine())
    await services.store.close()
    server = cli_serve.Server(cli_serve._config(FastAPI(), settings), services, "http://here")
    assert await server._needs_key(), "with a key the example is good in either case"


def test_the_greeting_names_a_few_aliases_and_how_many_more() -> None:
    models = {"tiny": {"name": "tiny", "family": "flux", "source": "builtin:tiny-flux"}}
    for count, told in ((4, "name-3\n"), (6, "name-3 and 2 more; `darkroom models` shows all\n")):
        aliases = {f"name-{number}": "tiny" for number in range(count)}
        catalog = Catalog.model_validate({"models": models, "aliases": aliases})
        shown = cli_serve.greeting(catalog, "http://127.0.0.1:8000", needs_key=False)
        assert f"also answers to name-0, name-1, name-2, {told}" in shown
