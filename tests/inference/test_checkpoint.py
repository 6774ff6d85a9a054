"""What a folder's files tell without being read."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from inference.hub.checkpoint import cached_folder, parts_of, stamp_of


@pytest.fixture
def folder(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a saved pipeline."""
    return Path(shutil.copytree(folders["flux"], tmp_path / "copy"))


def test_sizes_are_those_of_the_numbers_in_the_dtype_served(folder: Path) -> None:
    parts = parts_of(folder)
    assert sorted(parts) == ["text_encoder", "text_encoder_2", "transformer", "vae"]
    tensors = load_file(parts["vae"].files[0])
    numbers = sum(one.numel() for one in tensors.values())
    assert parts["vae"].size_bytes(4) == numbers * 4
    assert parts["vae"].size_bytes(2) == numbers * 2


def test_shards_count_by_their_index_and_variants_do_not(folder: Path) -> None:
    whole = parts_of(folder)["vae"]
    tensors = list(load_file(whole.files[0]).items())
    half, place = len(tensors) // 2, whole.config.parent
    names = {}
    for number, part in enumerate((tensors[:half], tensors[half:])):
        name = f"diffusion_pytorch_model-0000{number}-of-2.safetensors"
        save_file(dict(part), place / name)
        names |= dict.fromkeys(dict(part), name)
    size = whole.size_bytes(4)
    whole.files[0].rename(place / "diffusion_pytorch_model.fp16.safetensors")
    index = place / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    found = parts_of(folder)["vae"]
    assert len(found.files) == 2 and found.size_bytes(4) == size
    index.unlink()
    whole.files[0].write_bytes((place / names[tensors[0][0]]).read_bytes())
    assert parts_of(folder)["vae"].files == whole.files


def test_integers_keep_their_width(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae/config.json").write_text("{}")
    held = {"ids": torch.arange(10), "mask": torch.ones(3, dtype=torch.bool), "w": torch.ones(5)}
    save_file(held, tmp_path / "vae/model.safetensors")
    assert parts_of(tmp_path)["vae"].size_bytes(2) == 10 * 8 + 3 + 5 * 2


def test_equal_content_is_known_whatever_the_config_says_of_its_past(
    folder: Path, folders: dict[str, Path]
) -> None:
    ours, theirs = parts_of(folder)["vae"], parts_of(folders["flux"])["vae"]
    told = json.loads(ours.config.read_text())
    ours.config.write_text(json.dumps(told | {"_name_or_path": "elsewhere"}))
    assert ours.outline() == theirs.outline()
    assert ours.identity() != theirs.identity(), "nobody has looked into them yet"
    assert ours.digest() == theirs.digest()
    assert ours.identity() == theirs.identity()
    ours.config.write_text(json.dumps(told | {"scaling_factor": 0.5}))
    assert ours.outline() != theirs.outline() and ours.digest() != theirs.digest()


def test_one_number_more_or_less_is_another_content(folder: Path) -> None:
    part = parts_of(folder)["vae"]
    before, stamp = part.digest(), stamp_of(folder)
    tensors = load_file(part.files[0])
    name = next(iter(tensors))
    tensors[name] = tensors[name] + 1
    save_file(tensors, part.files[0], metadata={"format": "pt"})
    os.utime(part.files[0], ns=(1, 1))
    assert part.digest() != before
    assert stamp_of(folder) != stamp


def test_later_folders_replace_parts(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(folder / "transformer", own / "transformer")
    found = parts_of(folder, own)
    assert found["transformer"].config == own / "transformer/config.json"
    assert found["vae"].config == folder / "vae/config.json"


def test_a_hub_id_that_is_not_here_lies_nowhere() -> None:
    assert cached_folder("nobody/nothing", None) is None
    assert cached_folder("not/a/hub/id", None) is None
