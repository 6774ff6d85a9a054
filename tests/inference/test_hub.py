"""Files of a hub on this machine's loopback: they come outside the load lock, once, and stay."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
import torch
from huggingface_hub import constants
from safetensors.torch import load, save, save_file

from inference import selftest
from inference.assistants.rater import LocalRater
from inference.assistants.spec import RaterSpec
from inference.catalog import Catalog
from inference.check.assistants import check_assistants
from inference.errors import HubFailed, LoraFailed, ModelFailed
from inference.events import Failed, ImageDone
from inference.hosts.base import Close, Manage
from inference.hosts.thread import ThreadHost
from inference.hub import cache, fetch, partial, stream
from inference.hub.download import Download
from inference.hub.fetch import Fetcher, bring
from inference.hub.files import Kind, Wanted, one_file, wanted
from inference.hub.repository import HubFile
from inference.hub.sources import Sources
from inference.job import Lora, Mode
from inference.loading import LOAD_LOCK, is_here, read_part, read_pipelines
from inference.loras.files import find
from inference.model_spec import ModelSpec
from inference.status import ModelAction, ModelState, ModelStatus
from tests.hub import COMMIT, Hub, digest, reached, running, seen
from tests.inference import taught
from tests.inference.making import ENTRIES, Bench, catalog_over, job, plain

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
OTHER = "beef" + "0" * 36
PIPELINE = Wanted(owner="far", repository="owner/far")


# Between two pieces: longer than any test waits before it has the hub hurry.
SLOW_SECONDS = 60.0


@pytest.fixture
def hub(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """It has the tiny Flux as owner/far, in pieces of 16 KiB."""
    with running(Hub(piece_bytes=1 << 14)) as one, reached(one, tmp_path / "hub", monkeypatch):
        one.add("owner/far", folders["flux"])
        yield one


@pytest.fixture
def spec(catalog: Catalog) -> ModelSpec:
    return catalog.models["flux"].model_copy(update={"source": "owner/far"})


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def aside(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Begin it on a thread; its result or error comes into the list."""
    came: list[Any] = []

    def run() -> None:
        try:
            came.append(work())
        except Exception as error:
            came.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, came


def weights(hub: Hub, name: str = "owner/far") -> bytes:
    return hub.repositories[name][WEIGHTS]


def part_of(content: bytes, tmp_path: Path) -> Path:
    name = f"{digest(WEIGHTS, content)}.part"
    return tmp_path / "hub" / "models--owner--far" / "blobs" / name


class TestOutsideTheLock:
    def test_files_come_while_another_model_is_being_read(self, hub: Hub, spec: ModelSpec) -> None:
        with LOAD_LOCK:
            thread, came = aside(lambda: read_pipelines(spec, "cpu"))
            until(lambda: cache.find(PIPELINE) is not None)
            assert is_here(spec) and not came
        thread.join(30)
        assert set(came[0]) == set(spec.modes)

    def test_so_do_those_of_parts_beside_a_model(self, hub: Hub, tmp_path: Path) -> None:
        import diffusers

        vae = Wanted(owner="", repository="owner/far", kind=Kind.PART, path="vae")
        with LOAD_LOCK:
            thread, came = aside(
                lambda: read_part(diffusers.AutoencoderKL, "owner/far", torch.float32, None, "vae")
            )
            until(lambda: cache.find(vae) is not None)
        thread.join(30)
        assert isinstance(came[0], diffusers.AutoencoderKL)
        assert {name.partition("/")[0] for _, name, _ in hub.asked} == {"vae"}

    def test_so_do_those_of_an_assistant(self, hub: Hub, tmp_path: Path) -> None:
        labels = {"normal": ["green", "blue"], "NSFW": ["red"]}
        hub.add("owner/eye", taught.classifier(tmp_path / "eye", labels))
        rater = LocalRater(RaterSpec(classifier="owner/eye"))
        with LOAD_LOCK:
            thread, came = aside(lambda: rater.rate(taught.plain_picture("red"), {}))
            until(
                lambda: (
                    cache.find(Wanted(owner="", repository="owner/eye", kind=Kind.PART)) is not None
                )
            )
        thread.join(30)
        assert came == ["nsfw"]
        hub.repositories.clear()
        before = hub.asked_at_all
        again = LocalRater(RaterSpec(classifier="owner/eye"))
        assert again.rate(taught.plain_picture("green"), {}) == "sfw"
        assert hub.asked_at_all == before

    def test_what_is_here_is_read_without_a_hub(
        self, hub: Hub, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert not is_here(spec)
        read_pipelines(spec, "cpu")
        before = hub.asked_at_all
        hub.repositories.clear()
        for is_offline in (False, True):
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", is_offline)
            assert set(read_pipelines(spec, "cpu")) == set(spec.modes)
        assert hub.asked_at_all == before

    def test_a_folder_or_file_that_is_not_there_asks_no_hub(
        self, hub: Hub, spec: ModelSpec
    ) -> None:
        for source in ("./nothing", "not/a/hub/id", "nothing.safetensors", "~/nothing"):
            with pytest.raises(ModelFailed, match="neither a folder that is there nor an id"):
                read_pipelines(spec.model_copy(update={"source": source}), "cpu")
        assert hub.asked_at_all == 0


class TestDownloads:
    def test_it_is_told_how_far_it_is_and_stops_at_once(
        self, hub: Hub, spec: ModelSpec, tmp_path: Path
    ) -> None:
        hub.slow_seconds = SLOW_SECONDS
        download = Download()
        thread, came = aside(lambda: read_pipelines(spec, "cpu", None, download))
        part = part_of(weights(hub), tmp_path)
        until(lambda: part.exists() and part.stat().st_size > 0)
        done, whole = download.bytes
        files = {name for name in hub.repositories["owner/far"] if name.endswith(".safetensors")}
        assert 0 < done < whole
        assert whole >= sum(len(hub.repositories["owner/far"][name]) for name in files)
        download.stop()
        thread.join(60)
        assert isinstance(came[0], ModelFailed) and "stopped" in str(came[0])
        held = part.stat().st_size
        assert not is_here(spec) and not (tmp_path / "hub/models--owner--far/refs").exists()

        hub.hurry()
        again = Download()
        hub.asked.clear()
        read_pipelines(spec, "cpu", None, again)
        assert seen(hub, WEIGHTS)["GET"] == [f"bytes={held}-"]
        assert again.bytes == (whole, whole)

    @pytest.mark.parametrize("mute", ["api", "HEAD", "GET", "body"])
    def test_a_stop_is_heard_while_the_hub_says_nothing(
        self, hub: Hub, tmp_path: Path, mute: str
    ) -> None:
        hub.silent, hub.mute = ({WEIGHTS: 12_345}, set()) if mute == "body" else ({}, {mute})
        download, part = Download(), part_of(weights(hub), tmp_path)
        thread, came = aside(lambda: bring(PIPELINE, download))
        if mute == "body":
            until(lambda: part.exists() and part.stat().st_size == 12_345)
        else:
            until(lambda: hub.asked_at_all > 0)
            time.sleep(0.3)
        begin = time.monotonic()
        download.stop()
        thread.join(30)
        # at once on quiet cores; a line that nothing comes by is given up after ten seconds
        assert time.monotonic() - begin < 8
        assert isinstance(came[0], HubFailed) and "stopped; what came of it stays" in str(came[0])
        hub.mute, hub.asked = set(), []
        # nobody holds what is there while the hub is still silent to the first
        bring(PIPELINE)
        resumed = "bytes=12345-" if mute == "body" else ""
        assert seen(hub, WEIGHTS)["GET"] == [resumed]
        assert time.monotonic() - begin < 45

    def test_what_came_of_a_line_that_breaks_is_not_asked_for_again(self, hub: Hub) -> None:
        hub.cut = {WEIGHTS: 54_321}
        folder = bring(PIPELINE)
        assert seen(hub, WEIGHTS)["GET"] == ["", "bytes=54321-"]
        assert (folder / WEIGHTS).read_bytes() == weights(hub)

    def test_a_hub_without_ranges_sends_all_again(self, hub: Hub) -> None:
        hub.cut, hub.knows_ranges = {WEIGHTS: 54_321}, False
        download = Download()
        assert (bring(PIPELINE, download) / WEIGHTS).read_bytes() == weights(hub)
        done, whole = download.bytes
        assert done == whole and len(seen(hub, WEIGHTS)["GET"]) == 2

    def test_a_line_that_nothing_comes_by_is_given_up(
        self, hub: Hub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stream, "_AGAIN_SECONDS", 0.0)
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
        hub.mute = {"GET"}
        with pytest.raises(HubFailed, match=r"cannot be reached: .*timed out"):
            bring(Wanted(owner="", repository="owner/far", kind=Kind.FILE, path=WEIGHTS))
        assert 2 < hub.asked_at_all - 3 <= 7

    def test_one_that_is_stopped_between_two_files_is_not_whole(self, hub: Hub) -> None:
        download = Download()
        download.stop()
        with pytest.raises(HubFailed, match="stopped"):
            bring(PIPELINE, download)
        assert seen(hub, WEIGHTS)["GET"] == [] and cache.find(PIPELINE) is None

    def test_a_file_that_another_has_moved_is_not_written_to(self, tmp_path: Path) -> None:
        path = tmp_path / "a.part"
        with path.open("ab") as stream:
            assert partial.is_at(stream, path)
            path.rename(tmp_path / "a")
            assert not partial.is_at(stream, path)
            path.touch()
            assert not partial.is_at(stream, path)

    def test_two_that_want_the_same_get_it_once(self, hub: Hub, tmp_path: Path) -> None:
        hub.slow_seconds = SLOW_SECONDS
        downloads = [Download() for _ in range(3)]
        threads = [aside(lambda one=one: bring(PIPELINE, one)) for one in downloads]  # type: ignore[misc]
        until(lambda: all(0 < one.bytes[0] < one.bytes[1] for one in downloads))
        hub.hurry()
        for thread, _ in threads:
            thread.join(60)
        folder = cache.find(PIPELINE)
        assert folder is not None and [came for _, came in threads] == [[folder]] * 3
        large = [name for name in hub.repositories["owner/far"] if name.endswith(".safetensors")]
        assert [seen(hub, name)["GET"] for name in large] == [[""]] * len(large)
        assert {one.bytes for one in downloads} == {downloads[0].bytes}
        assert not list((tmp_path / "hub").rglob("*.part"))

    def test_where_the_first_of_two_is_stopped_the_second_goes_on(
        self, hub: Hub, tmp_path: Path
    ) -> None:
        hub.slow_seconds = SLOW_SECONDS
        first, second = Download(), Download()
        one, came = aside(lambda: bring(PIPELINE, first))
        part = part_of(weights(hub), tmp_path)
        until(lambda: part.exists() and part.stat().st_size > 0)
        other, found = aside(lambda: bring(PIPELINE, second))
        until(lambda: second.bytes[0] > 0)
        first.stop()
        one.join(60)
        assert isinstance(came[0], HubFailed)
        hub.hurry()
        other.join(30)
        assert found == [cache.find(PIPELINE)]
        (begun, resumed) = seen(hub, WEIGHTS)["GET"]
        assert begun == "" and resumed.startswith("bytes=")
        assert (found[0] / WEIGHTS).read_bytes() == weights(hub)

    def test_what_comes_damaged_is_thrown_away_for_all_who_wait(
        self, hub: Hub, tmp_path: Path
    ) -> None:
        hub.slow_seconds, hub.damaged = 0.02, {WEIGHTS}
        threads = [aside(lambda: bring(PIPELINE)) for _ in range(2)]
        for thread, _ in threads:
            thread.join(60)
        for _, (error,) in threads:
            assert isinstance(error, HubFailed) and "came damaged" in str(error), error
        assert not part_of(weights(hub), tmp_path).exists() and cache.find(PIPELINE) is None

    def test_a_disk_that_is_too_small_is_told_before_anything_comes(
        self, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        size = len(weights(hub))
        free = {"bytes": 1000}
        usage = lambda path: shutil._ntuple_diskusage(0, 0, free["bytes"])  # type: ignore[attr-defined]  # noqa: E731
        monkeypatch.setattr(fetch.shutil, "disk_usage", usage)
        with pytest.raises(HubFailed, match=r"owner/far is .* GB more, and .* has 0.0 GB left"):
            bring(PIPELINE)
        assert seen(hub, WEIGHTS)["GET"] == []
        # what a broken off download left counts
        part = part_of(weights(hub), tmp_path)
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(weights(hub)[: size - 10])
        files = {name: len(one) for name, one in hub.repositories["owner/far"].items()}
        free["bytes"] = sum(files.values()) - size + 10
        assert bring(PIPELINE)

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("owner/closed", "owner/closed: gated: its terms have to be accepted at"),
            ("owner/none", "owner/none: there is no http"),
            ("owner/plain", "no model_index.json in it"),
            ("owner/bin", "has pickled weights alone, which may run anything"),
        ],
    )
    def test_what_cannot_be_had_says_why(
        self, hub: Hub, spec: ModelSpec, name: str, said: str
    ) -> None:
        files = hub.repositories["owner/far"]
        hub.gated = {"owner/closed"}
        pickled = {one.replace(".safetensors", ".bin"): files[one] for one in files}
        hub.repositories |= {"owner/closed": files, "owner/plain": {"README.md": b"no model"}}
        hub.repositories["owner/bin"] = pickled
        with pytest.raises(ModelFailed, match=said):
            read_pipelines(spec.model_copy(update={"source": name}), "cpu")

    def test_without_a_hub_it_says_so(
        self, hub: Hub, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(ModelFailed, match=r"owner/far: the hub at .*:9 cannot be reached"):
            read_pipelines(spec, "cpu")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(ModelFailed, match="HF_HUB_OFFLINE keeps the hub away"):
            read_pipelines(spec, "cpu")


class TestMoved:
    @pytest.fixture
    def moved(self, hub: Hub) -> bytes:
        """What came from a branch that has moved since: its weights, which are others now."""
        bring(PIPELINE)
        before = weights(hub)
        files = {**hub.repositories["owner/far"]}
        files[WEIGHTS] = before[:-4] + os.urandom(4)
        hub.move("owner/far", OTHER, files)
        return before

    def test_a_pull_follows_and_a_load_does_not(self, hub: Hub, moved: bytes) -> None:
        assert (bring(PIPELINE) / WEIGHTS).read_bytes() == moved
        Fetcher().fetch(PIPELINE, Download())
        folder = bring(PIPELINE)
        assert folder.name == OTHER and (folder / WEIGHTS).read_bytes() == weights(hub)

    def test_until_all_of_it_is_here_the_old_one_stays(self, hub: Hub, moved: bytes) -> None:
        hub.damaged = {WEIGHTS}
        with pytest.raises(HubFailed, match="came damaged"):
            Fetcher().fetch(PIPELINE, Download())
        folder = cache.find(PIPELINE)
        assert folder is not None and folder.name == COMMIT
        assert (folder / WEIGHTS).read_bytes() == moved

    def test_what_is_missing_comes_from_the_commit_that_is_here(
        self, hub: Hub, moved: bytes
    ) -> None:
        gone = bring(PIPELINE) / WEIGHTS
        gone.resolve().unlink()
        assert (bring(PIPELINE) / WEIGHTS).read_bytes() == moved
        gone.resolve().unlink()
        hub.past.clear()
        folder = bring(PIPELINE)
        assert folder.name == OTHER, "that commit has gone"

    def test_a_commit_is_what_it_was(self, hub: Hub, moved: bytes) -> None:
        old, new = (
            Wanted(owner="", repository="owner/far", revision=one) for one in (COMMIT, OTHER)
        )
        Fetcher().fetch(new, Download())
        assert (bring(old) / WEIGHTS).read_bytes() == moved
        assert bring(new).name == OTHER and bring(PIPELINE).name == COMMIT


class TestCachesOfOthers:
    """Filled by another tool: nothing says what else the repository has."""

    def lay(self, tmp_path: Path, source: Path) -> Path:
        place = tmp_path / "hub" / "models--owner--far"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text(COMMIT)
        return Path(shutil.copytree(source, place / "snapshots" / COMMIT))

    def test_a_whole_one_is_enough(
        self, hub: Hub, spec: ModelSpec, folders: dict[str, Path], tmp_path: Path
    ) -> None:
        folder = self.lay(tmp_path, folders["flux"])
        read_pipelines(spec, "cpu")
        assert cache.find(PIPELINE) == folder and hub.asked_at_all == 0

    @pytest.mark.parametrize(
        "gone", [WEIGHTS, "model_index.json", "tokenizer", "text_encoder/model.safetensors"]
    )
    def test_what_lacks_something_is_completed(
        self, hub: Hub, folders: dict[str, Path], tmp_path: Path, gone: str
    ) -> None:
        folder = self.lay(tmp_path, folders["flux"])
        one = folder / gone
        shutil.rmtree(one) if one.is_dir() else one.unlink()
        assert cache.find(PIPELINE) is None
        assert bring(PIPELINE) == folder and one.exists()
        assert {name for method, name, _ in hub.asked if method == "GET"} == {
            name
            for name in hub.repositories["owner/far"]
            if name.startswith(f"{gone}/") or name == gone
        }

    def test_a_variant_alone_is_not_what_is_read(
        self, hub: Hub, folders: dict[str, Path], tmp_path: Path
    ) -> None:
        one = self.lay(tmp_path, folders["flux"]) / WEIGHTS
        one.rename(one.with_name("diffusion_pytorch_model.fp16.safetensors"))
        assert cache.find(PIPELINE) is None

    def test_weights_that_a_file_replaces_may_be_missing(
        self, hub: Hub, folders: dict[str, Path], tmp_path: Path
    ) -> None:
        folder = self.lay(tmp_path, folders["flux"])
        (folder / WEIGHTS).unlink()
        without = Wanted(owner="", repository="owner/far", without=("transformer",))
        assert cache.find(without) == folder and cache.find(PIPELINE) is None

    def test_a_shard_that_is_missing_is_seen(
        self, hub: Hub, folders: dict[str, Path], tmp_path: Path
    ) -> None:
        one = self.lay(tmp_path, folders["flux"]) / WEIGHTS
        shards = [f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
        index = {"weight_map": {"a": shards[0], "b": shards[1]}}
        one.with_name("diffusion_pytorch_model.safetensors.index.json").write_text(
            json.dumps(index)
        )
        one.rename(one.with_name(shards[0]))
        assert cache.find(PIPELINE) is None
        shutil.copy(one.with_name(shards[0]), one.with_name(shards[1]))
        assert cache.find(PIPELINE) is not None

    def test_a_file_without_a_name_is_looked_for_while_there_is_a_hub(
        self, hub: Hub, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = self.lay(tmp_path, folders["flux"] / "vae")
        (kept,) = folder.glob("*.safetensors")
        one = one_file("", "owner/far", None, "")
        files = {kept.name: kept.read_bytes(), "other.safetensors": b"another"}
        hub.repositories["owner/far"] = files
        with pytest.raises(HubFailed, match="name one of"):
            bring(one)
        shutil.rmtree(folder.parents[1] / "listings")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert bring(one) == folder


class TestLoras:
    @pytest.fixture
    def spec(self, hub: Hub, catalog: Catalog, tmp_path: Path) -> ModelSpec:
        for name in ("one.safetensors", "more/two.safetensors"):
            path = tmp_path / "loras" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"a": torch.ones(3)}, path)
        hub.add("owner/loras", tmp_path / "loras")
        listed = {"first": {"source": "owner/loras"}}
        listed["second"] = {"source": "owner/loras", "file": "more/two.safetensors"}
        entry = {**ENTRIES["flux"], "loras": listed, "loras_from": ["hub"]}
        return catalog_over({"flux": tmp_path}, {"flux": entry}).models["flux"]

    def test_each_comes_when_it_is_asked_for(self, hub: Hub, spec: ModelSpec) -> None:
        assert find(spec, "first").path.name == "one.safetensors"
        assert {name for _, name, _ in hub.asked} == {"one.safetensors"}
        assert find(spec, "hub:owner/loras/more/two.safetensors").path.name == "two.safetensors"
        before = hub.asked_at_all
        hub.repositories.clear()
        assert find(spec, "first").path != find(spec, "second").path
        assert find(spec, "hub:owner/loras").path == find(spec, "first").path
        assert hub.asked_at_all == before

    def test_one_of_several_is_named_though_another_is_here(
        self, hub: Hub, spec: ModelSpec
    ) -> None:
        files = hub.repositories["owner/loras"]
        files["three.safetensors"] = files["one.safetensors"]
        assert find(spec, "hub:owner/loras/three.safetensors").path.name == "three.safetensors"
        with pytest.raises(LoraFailed, match=r"name one of one.safetensors, three.safetensors"):
            find(spec, "first")

    def test_a_request_reaches_no_other_file(self, hub: Hub, spec: ModelSpec) -> None:
        for name in ("owner/loras/../one.safetensors", "owner/loras/nothing.safetensors"):
            with pytest.raises(LoraFailed, match="has no file"):
                find(spec, f"hub:{name}")
        with pytest.raises(LoraFailed, match="cannot be had from the hub: owner/none: there is no"):
            find(spec, "hub:owner/none")


def test_the_assistants_are_pulled_and_checked(hub: Hub, tmp_path: Path) -> None:
    labels = {"normal": ["green", "blue"], "NSFW": ["red"]}
    eye = taught.classifier(tmp_path / "eye", labels)
    hub.add("owner/eye", eye)
    rater = {"classifier": "owner/eye", "nsfw_labels": ["porn"], "clip": "owner/none"}
    viewer = {"captioner": str(eye)}
    found = Catalog.model_validate({"models": {}, "rater": rater, "viewer": viewer})
    todo = wanted(found, [], ["rater", "viewer"])
    assert [one.repository for one in todo] == ["owner/eye", "owner/none"]
    with Sources() as sources:
        first, second, third = check_assistants(found, ["rater", "viewer"], sources)
        assert first.where == "on the hub" and first.missing_bytes > 0
        assert first.problems == ["nsfw_labels: it has no 'porn'; it has normal, NSFW"]
        assert second.problems[0].startswith("owner/none: there is no")
        assert third.where == "here" and "AutoModelForImageTextToText" in third.problems[0]
        Fetcher().fetch(todo[0], Download())
        (told, _) = check_assistants(found, ["rater"], sources)
    assert (told.where, told.missing_bytes) == ("in the hub's cache", 0)
    held = (eye / "model.safetensors").stat().st_size
    assert 0.8 * held < told.weight_bytes <= held


def test_a_file_of_a_repository_is_compared_by_gits_own_hash_too(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"hello\n")
    git = HubFile(6, "ce013625030ba8dba906f756967f9e9ca394464a")
    assert partial.is_whole(path, git, lambda: None)
    assert not partial.is_whole(path, HubFile(6, "0" * 40), lambda: None)


def test_comparing_is_stopped_too(tmp_path: Path) -> None:
    def stop() -> None:
        raise InterruptedError

    path = tmp_path / "a"
    path.write_bytes(b"hello\n")
    with pytest.raises(InterruptedError):
        partial.is_whole(path, HubFile(6, "0" * 64), stop)


def test_nobody_writes_to_a_part_that_was_let_go_of(tmp_path: Path) -> None:
    path, told = tmp_path / "a.part", Download()
    first, second = partial.Claims(), partial.Claims()
    with path.open("ab") as one, first.claim(one) as is_ours, path.open("ab") as other:
        part = partial.Part(one, first, partial.Meter(told))
        part.write(b"abc")
        assert is_ours and part.size_bytes == told.bytes[0] == path.stat().st_size == 3
        with second.claim(other) as is_theirs:
            assert not is_theirs
        first.let_go()
        with second.claim(other) as is_theirs:
            assert is_theirs
            for change in (lambda: part.write(b"d"), part.clear):
                with pytest.raises(partial.PartLost):
                    change()
        assert path.read_bytes() == b"abc"
    with path.open("ab") as one, first.claim(one) as is_ours:
        assert not is_ours, "the errand is over"


def test_a_gguf_file_comes_too_and_replaces_weights(hub: Hub, spec: ModelSpec) -> None:
    hub.repositories["owner/narrow"] = {"tiny.gguf": b"GGUF" + bytes(100)}
    quantization = {"kind": "gguf", "source": "owner/narrow", "file": "tiny.gguf"}
    narrow = ModelSpec.model_validate(spec.model_dump() | {"quantization": quantization})
    with pytest.raises(ModelFailed):
        read_pipelines(narrow, "cpu")
    assert cache.find(one_file("", "owner/narrow", None, "tiny.gguf")) is not None
    assert seen(hub, WEIGHTS)["GET"] == []


class TestServed:
    """Models of one device: one comes slowly from the hub while another serves."""

    @pytest.fixture(autouse=True)
    def _measured_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(selftest, "MEASURED_SIZES", 1)

    @pytest.fixture
    def bench(self, hub: Hub, folders: dict[str, Path]) -> Bench:
        found = {"flux": folders["flux"], "flux-cfg": folders["flux-cfg"]}
        near = catalog_over(found).models["flux-cfg"]
        far = catalog_over(found).models["flux"].model_copy(update={"source": "owner/far"})
        both = {one.name: one.model_copy(update={"modes": (Mode.GENERATE,)}) for one in (near, far)}
        return Bench(Catalog(models=both), retry_load_seconds=0.2)

    def told(self, bench: Bench, name: str = "flux") -> ModelStatus:
        return next(one for one in bench.worker.status(True).models if one.name == name)

    def ticked(self, bench: Bench, condition: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it never came"
            bench.worker.tick()

    def test_another_loads_and_serves_while_it_comes(
        self, hub: Hub, bench: Bench, folders: dict[str, Path], catalog: Catalog
    ) -> None:
        hub.slow_seconds = SLOW_SECONDS
        bench.submit(job("late", model="flux"))
        self.ticked(bench, lambda: self.told(bench).fetched_bytes > 0)
        bench.submit(job("soon", model="flux-cfg"))
        self.ticked(bench, lambda: any(isinstance(one, ImageDone) for one in bench.seen.events))
        told = self.told(bench)
        assert told.state is ModelState.LOADING and told.weight_bytes == 0
        assert 0 < told.fetched_bytes < told.fetch_bytes
        assert self.told(bench, "flux-cfg").fetch_bytes == 0
        hub.hurry()
        bench.finish()
        wanted = plain(catalog.models["flux"], job("late", model="flux"))
        assert bench.seen.picture("late").tobytes() == wanted.tobytes()
        told = self.told(bench)
        assert (told.state, told.fetched_bytes, told.fetch_bytes) == (ModelState.READY, 0, 0)

    def test_nobody_leaves_the_device_before_it_is_here(self, hub: Hub, bench: Bench) -> None:
        bench.worker._residents.get("flux-cfg")
        near = self.told(bench, "flux-cfg")
        room = near.weight_bytes * 3 // 2 + near.working_bytes
        budget = replace(bench.worker._residents.budget, device_bytes=room)
        bench.worker._residents.budget = budget
        hub.slow_seconds = SLOW_SECONDS
        bench.submit(job("late", model="flux"))
        self.ticked(bench, lambda: self.told(bench).fetched_bytes > 0)
        assert self.told(bench, "flux-cfg").state is ModelState.READY
        # or it would be in the way of others for as long
        assert not bench.worker._residents._all["flux"].on_device
        hub.hurry()
        bench.finish()
        assert self.told(bench, "flux-cfg").state is not ModelState.READY
        assert self.told(bench).state is ModelState.READY

    def test_unloading_ends_it_and_loading_goes_on(
        self, hub: Hub, bench: Bench, tmp_path: Path
    ) -> None:
        hub.slow_seconds = SLOW_SECONDS
        part = part_of(weights(hub), tmp_path)
        bench.worker.command("flux", ModelAction.LOAD)
        self.ticked(bench, lambda: part.exists() and part.stat().st_size > 0)
        bench.worker.command("flux", ModelAction.UNLOAD)
        bench.ticks(2)
        told = self.told(bench)
        assert (told.state, told.fetch_bytes) == (ModelState.UNLOADED, 0)
        assert not bench.worker.at_work
        until(lambda: "fetch-flux" not in {one.name for one in threading.enumerate()})
        held = part.stat().st_size
        hub.hurry()
        hub.asked.clear()
        bench.worker.command("flux", ModelAction.LOAD)
        self.ticked(bench, lambda: self.told(bench).state is ModelState.READY)
        assert seen(hub, WEIGHTS)["GET"] == [f"bytes={held}-"]

    @pytest.mark.parametrize("end", ["unload", "close"])
    def test_a_lora_is_told_of_while_it_comes_and_is_stopped(
        self, hub: Hub, folders: dict[str, Path], end: str
    ) -> None:
        name = "ink.safetensors"
        hub.repositories["owner/ink"] = {name: os.urandom(1 << 16)}
        hub.silent = {name: 1 << 15}
        keys = {**ENTRIES["flux"], "loras": {"ink": {"source": "owner/ink"}}}
        served = catalog_over({"flux": folders["flux"]}, {"flux": keys})
        bench = Bench(served)
        bench.submit(job("a", loras=(Lora(name="ink", strength=1.0),)))
        with structlog.testing.capture_logs() as logs:
            self.ticked(bench, lambda: self.told(bench).fetched_bytes == 1 << 15)
        told = self.told(bench)
        assert (told.state, told.fetch_bytes) == (ModelState.READY, 1 << 16)
        assert {"event": "lora.fetching", "source": "owner/ink"}.items() <= next(
            one for one in logs if one["event"] == "lora.fetching"
        ).items()
        begin = time.monotonic()
        if end == "close":
            bench.worker.close()
        else:
            bench.worker.cancel(lambda _: True)
            bench.worker.command("flux", ModelAction.UNLOAD)
            self.ticked(bench, lambda: self.told(bench).state is ModelState.UNLOADED)
        until(lambda: "lora-reader" not in {one.name for one in threading.enumerate()}, 10)
        assert time.monotonic() - begin < 2.5
        hub.asked.clear()
        assert (
            find(served.models["flux"], "ink").path.read_bytes()
            == hub.repositories["owner/ink"][name]
        )
        assert seen(hub, name)["GET"] == [f"bytes={1 << 15}-"]

    def test_the_end_of_the_worker_ends_it(self, hub: Hub, bench: Bench, tmp_path: Path) -> None:
        hub.slow_seconds = SLOW_SECONDS
        part = part_of(weights(hub), tmp_path)
        host = ThreadHost(bench.worker)
        host.start()
        host.send(Manage("flux", ModelAction.LOAD))
        until(lambda: part.exists() and part.stat().st_size > 0)
        host.send(Close(time.monotonic()))
        assert host.join(60)
        until(lambda: "fetch-flux" not in {one.name for one in threading.enumerate()})
        assert part.stat().st_size < len(weights(hub))

    def test_one_that_cannot_be_had_says_why_and_is_tried_again(
        self, hub: Hub, bench: Bench
    ) -> None:
        hub.gated = {"owner/far"}
        bench.submit(job("late", model="flux"))
        bench.submit(job("soon", model="flux-cfg"))
        bench.finish()
        failed = bench.seen.outcome("late")
        assert isinstance(failed, Failed)
        assert str(failed.error).startswith("owner/far: gated: its terms have to be accepted")
        assert isinstance(bench.seen.outcome("soon"), ImageDone)
        assert self.told(bench).state is ModelState.FAILED
        hub.gated = set()
        time.sleep(0.3)
        bench.submit(job("again", model="flux"))
        bench.finish()
        assert isinstance(bench.seen.outcome("again"), ImageDone)

    def test_what_was_pulled_since_is_loaded_next(self, hub: Hub, bench: Bench) -> None:
        bench.worker._residents.get("flux")
        bench.submit(job("before", model="flux"))
        bench.finish()
        tensors = {
            name: one + 0.1 if one.is_floating_point() else one
            for name, one in load(weights(hub)).items()
        }
        files = {**hub.repositories["owner/far"], WEIGHTS: save(tensors, {"format": "pt"})}
        hub.move("owner/far", OTHER, files)
        for name, is_new in (("moved", False), ("pulled", True)):
            if is_new:
                Fetcher().fetch(PIPELINE, Download())
            bench.worker.command("flux", ModelAction.UNLOAD)
            self.ticked(bench, lambda: self.told(bench).state is ModelState.UNLOADED)
            bench.submit(job(name, model="flux"))
            bench.finish()
            same = bench.seen.picture(name).tobytes() == bench.seen.picture("before").tobytes()
            assert same is not is_new
