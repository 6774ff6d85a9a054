"""What is read for references: once, off the device's thread, or refused with tag and reason."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import save_file
from structlog.testing import capture_logs

from inference import skeletons
from inference.catalog import Catalog
from inference.coalesce import Rendezvous
from inference.errors import ReferenceFailed
from inference.events import Failed
from inference.job import Mode, ReferenceTag
from inference.loading import load_pipelines
from inference.model_spec import ModelSpec
from inference.references.shelf import ReferenceShelf
from tests.inference.guided import FILE, asks, plain_guided, reference
from tests.inference.making import Bench, catalog_over

POSE, STYLE = ReferenceTag.POSE, ReferenceTag.STYLE


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shelf")
    flux = skeletons.tiny_flux()
    skeletons.save(flux, root / "flux")
    skeletons.tiny_controlnet(flux).save_pretrained(root / "control")
    skeletons.tiny_controlnet(flux, num_mode=3).save_pretrained(root / "union")
    skeletons.tiny_controlnet(skeletons.tiny_sdxl()).save_pretrained(root / "sdxl-control")
    wide = skeletons.tiny_controlnet(skeletons.tiny_flux(heads=8))
    wide.save_pretrained(root / "wide-control")
    skeletons.save_ip_adapter(flux, root / "ip")
    skeletons.save_ip_adapter(skeletons.tiny_sdxl(), root / "sdxl-ip")
    return root


def spec_of(root: Path, **references: Any) -> ModelSpec:
    """The tiny flux, its references by folders below the root."""
    for entry in references.values():
        entry["source"] = str(root / entry["source"])
        entry.setdefault("by", "controlnet")
    made = {"family": "flux", "max_sequence_length": 16, "references": references}
    return catalog_over({"flux": root / "flux"}, {"flux": made}).models["flux"]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    torch.set_grad_enabled(False)
    with capture_logs():
        yield
    torch.set_grad_enabled(True)


def shelf_of(spec: ModelSpec) -> ReferenceShelf:
    pipe = load_pipelines(spec, "cpu")[Mode.GENERATE]
    rendezvous = Rendezvous()
    return ReferenceShelf(spec, pipe, rendezvous.attach(pipe.transformer), "cpu", rendezvous)


def pickled_only(root: Path) -> None:
    """A ControlNet whose weights are pickled, which may run anything."""
    folder = root / "pickled"
    net = diffusers.FluxControlNetModel.from_pretrained(root / "control")
    net.save_pretrained(folder, safe_serialization=False)


def face_id(root: Path) -> None:
    shutil.copytree(root / "ip", root / "face")
    weights = {
        "image_proj.proj.weight": torch.zeros(4, 4),
        "ip_adapter.0.to_q_lora.up": torch.zeros(1),
    }
    save_file(weights, root / "face" / FILE)


def cut_short(root: Path) -> None:
    shutil.copytree(root / "ip", root / "cut")
    whole = (root / "ip" / FILE).read_bytes()
    (root / "cut" / FILE).write_bytes(whole[: len(whole) // 2])


def no_adapter(root: Path) -> None:
    shutil.copytree(root / "ip", root / "other")
    save_file({"weight": torch.zeros(1)}, root / "other" / FILE)


def without_encoder(root: Path) -> None:
    (root / "blind").mkdir()
    shutil.copy(root / "ip" / FILE, root / "blind" / FILE)


def nothing(root: Path) -> None:
    """All is there."""


WRONG: list[tuple[Any, str, dict[str, Any], str]] = [
    (nothing, "pose", {"source": "nowhere"}, "nowhere"),
    (nothing, "pose", {"source": "sdxl-control"}, "holds a ControlNetModel, not a FluxControl"),
    (
        nothing,
        "pose",
        {"source": "wide-control"},
        "made for another base: num_attention_heads is 8",
    ),
    (nothing, "pose", {"source": "union"}, "name its control_mode"),
    (nothing, "pose", {"source": "control", "control_mode": 1}, "name no control_mode"),
    (pickled_only, "pose", {"source": "pickled"}, "safetensors"),
    (face_id, "style", {"by": "ip_adapter", "source": "face", "file": FILE}, "Face ID"),
    (cut_short, "style", {"by": "ip_adapter", "source": "cut", "file": FILE}, ""),
    (no_adapter, "style", {"by": "ip_adapter", "source": "other", "file": FILE}, "no IP-Adapter"),
    (without_encoder, "style", {"by": "ip_adapter", "source": "blind", "file": FILE}, ""),
    (nothing, "style", {"by": "ip_adapter", "source": "sdxl-ip", "file": FILE}, "another base"),
    (nothing, "style", {"by": "redux", "source": "control"}, ""),
]


@pytest.mark.parametrize(("prepare", "tag", "entry", "reason"), WRONG)
def test_what_is_wrong_with_a_checkpoint_is_told_with_its_tag(
    root: Path, prepare: Any, tag: str, entry: dict[str, Any], reason: str
) -> None:
    prepare(root)
    shelf = shelf_of(spec_of(root, **{tag: dict(entry)}))
    with pytest.raises(ReferenceFailed, match=f"^reference '{tag}': .") as raised:
        shelf.get(ReferenceTag(tag))
    assert reason in str(raised.value)
    assert (shelf.held_bytes, shelf.attached) == (0, [])


def test_a_failure_stands_for_a_while_and_the_model_serves(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(root / "flux", tmp_path / "flux")
    spec = spec_of(tmp_path, pose={"source": "control"})
    bench = Bench(Catalog(models={"flux": spec}))
    for name in ("first", "second"):
        bench.submit(asks("flux", Mode.GENERATE, ("pose", 0.5), name=name))
    bench.submit(asks("flux", name="without"))
    bench.finish()
    for name in ("first", "second"):
        outcome = bench.seen.outcome(name)
        assert isinstance(outcome, Failed)
        assert outcome.error.kind == "reference_failed"
        assert "'pose'" in str(outcome.error)
    assert bench.seen.picture("without").size == (64, 64)

    shutil.copytree(root / "control", tmp_path / "control")
    bench.submit(asks("flux", Mode.GENERATE, ("pose", 0.5), name="too soon"))
    bench.finish()
    assert isinstance(bench.seen.outcome("too soon"), Failed)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 60)
    wanted = asks("flux", Mode.GENERATE, ("pose", 0.5), name="later")
    bench.submit(wanted)
    bench.finish()
    expected = plain_guided(Catalog(models={"flux": spec}), wanted)
    assert bench.seen.picture("later").tobytes() == expected.tobytes()


def test_reading_happens_beside_and_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tags of one union are one ControlNet, and nobody waits for a file on this thread."""
    union = {"source": "union", "strength": 1.0}
    shelf = shelf_of(
        spec_of(
            root,
            pose={**union, "control_mode": 0},
            composition={**union, "control_mode": 2, "condition": "edges"},
            style={"by": "ip_adapter", "source": "ip", "file": FILE},
        )
    )
    tags = [POSE, ReferenceTag.COMPOSITION, STYLE]
    assert not shelf.ready(tags)
    while not shelf.ready(tags):
        time.sleep(0.001)
    monkeypatch.setattr(shelf, "_start_reading", None)
    assert shelf.get(POSE) is shelf.get(ReferenceTag.COMPOSITION)
    assert len(shelf.attached) == 1
    adapter = shelf.get(STYLE)
    net = shelf.get(POSE)
    modules = [net, *adapter.processors.values(), adapter.projection, adapter.image_encoder]
    size = sum(one.numel() * 4 for module in modules for one in module.parameters())
    assert shelf.held_bytes == size
    own = type(net).forward.__get__(net)
    assert net.forward != own

    shelf.let_go()
    assert (shelf.held_bytes, shelf.attached) == (0, [])
    assert net.forward == own


def test_an_image_encoder_may_be_elsewhere(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapters" / "deep"
    folder.mkdir(parents=True)
    shutil.copy(root / "ip" / FILE, folder / FILE)
    shutil.copytree(root / "ip" / "image_encoder", tmp_path / "eyes" / "clip")
    entry = {
        "by": "ip_adapter",
        "source": str(tmp_path / "adapters"),
        "subfolder": "deep",
        "file": FILE,
        "image_encoder": str(tmp_path / "eyes"),
        "image_encoder_subfolder": "clip",
    }
    assert shelf_of(spec_of(root, style=entry)).get(STYLE).processors


def test_what_the_model_takes_no_more_fails_alone(root: Path) -> None:
    """The entry of models.yaml may have changed while the task waited."""
    spec = spec_of(root, pose={"source": "control"})
    bench = Bench(Catalog(models={"flux": spec}))
    bench.submit(asks("flux", images=(reference("style", 0.5),), name="style"))
    bench.submit(asks("flux", name="without"))
    bench.finish()
    outcome = bench.seen.outcome("style")
    assert isinstance(outcome, Failed)
    assert "'style'" in str(outcome.error)
    assert bench.seen.picture("without")
