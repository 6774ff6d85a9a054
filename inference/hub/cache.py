"""The hub's cache on this machine: what of a repository is here, and whether that is all. No torch.

Beside the files of a commit lies the list of all that it has, so that it can be told without the
hub whether one is missing.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from inference.errors import HubFailed
from inference.hub.files import Kind, Wanted, components, needed

# Files of weights that are read; other names are variants, such as .fp16.
_PLAIN = re.compile(r"(diffusion_pytorch_)?model(-\d+-of-\d+)?\.safetensors")


def cache_folder(cache_dir: Path | None = None) -> Path:
    """The hub's cache, or one at another place."""
    return Path(cache_dir or constants.HF_HUB_CACHE).expanduser().resolve()


def repository_folder(repository: str, cache_dir: Path | None = None) -> Path:
    """Where all of a repository lies, if anything of it does."""
    return cache_folder(cache_dir) / repo_folder_name(repo_id=repository, repo_type="model")


def commit_of(repository: str, revision: str | None, cache_dir: Path | None = None) -> str | None:
    """The commit that a revision stands for here, as it was when it last came."""
    folder, name = repository_folder(repository, cache_dir), revision or constants.DEFAULT_REVISION
    ref = folder / "refs" / name
    commit = ref.read_text().strip() if ref.is_file() else name
    return commit if (folder / "snapshots" / commit).is_dir() else None


def snapshot(repository: str, commit: str, cache_dir: Path | None = None) -> Path:
    """Where the files of a commit lie by their names, those that came."""
    return repository_folder(repository, cache_dir) / "snapshots" / commit


def find(one: Wanted, cache_dir: Path | None = None, *, is_hub_away: bool = False) -> Path | None:
    """The folder of a repository at its revision, if all that is needed of it is here.

    Its weights are not read. Of what others brought here not all can be told without the hub;
    where that is away, what can be is enough.
    """
    commit = commit_of(one.repository, one.revision, cache_dir)
    if commit is None:
        return None
    folder = snapshot(one.repository, commit, cache_dir)
    # pointers; one to a file that has gone is none
    here = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    listed = _listed(one.repository, commit, cache_dir)
    try:
        files = needed(one, listed or sorted(here), lambda name: read_json(folder, name))
    except (HubFailed, KeyError, TypeError, AttributeError):
        return None
    if listed:
        return folder if here.issuperset(files) else None
    if one.kind is Kind.FILE:
        # one without a name has to be the only one there is
        return folder if one.path or is_hub_away else None
    return folder if _looks_whole(one, folder, files, here) else None


def read_json(folder: Path, name: str) -> Mapping[str, Any]:
    """What a JSON file of a repository says; raises HubFailed."""
    try:
        told: Mapping[str, Any] = json.loads((folder / name).read_bytes())
    except OSError as error:
        raise HubFailed(f"{name}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise HubFailed(f"{name} is no JSON") from None
    if not isinstance(told, dict):
        raise HubFailed(f"{name} is no table")
    return told


def note_listing(
    repository: str, commit: str, names: Iterable[str], cache_dir: Path | None = None
) -> None:
    """Remember what a commit has."""
    _write(_listing(repository, commit, cache_dir), json.dumps(sorted(names)))


def note_commit(
    repository: str, revision: str | None, commit: str, cache_dir: Path | None = None
) -> None:
    """From now on a revision stands for this commit."""
    name = revision or constants.DEFAULT_REVISION
    if name != commit and commit_of(repository, revision, cache_dir) != commit:
        _write(repository_folder(repository, cache_dir) / "refs" / name, commit)


def _looks_whole(one: Wanted, folder: Path, files: list[str], here: Collection[str]) -> bool:
    """Whether what others brought here could be all of it; what they left out is not listed."""
    parts = [one.path]
    if one.kind is Kind.PIPELINE:
        parts = components(read_json(folder, "model_index.json"))
    weights = [name for name in files if name.endswith(".safetensors")]
    for part in parts:
        inside = f"{part}/" if part else ""
        if part and not any(name.startswith(inside) for name in here):
            return False
        own = [name.removeprefix(inside) for name in weights if name.startswith(inside)]
        is_model = f"{inside}config.json" in here and part not in one.without
        if is_model and not any(_PLAIN.fullmatch(name) for name in own):
            return False
    return True


def _listing(repository: str, commit: str, cache_dir: Path | None) -> Path:
    return repository_folder(repository, cache_dir) / "listings" / f"{commit}.json"


def _listed(repository: str, commit: str, cache_dir: Path | None) -> list[str]:
    try:
        told = json.loads(_listing(repository, commit, cache_dir).read_bytes())
    except (OSError, ValueError):
        return []
    return [name for name in told if isinstance(name, str)] if isinstance(told, list) else []


def _write(path: Path, text: str) -> None:
    """Whole or not at all, whoever writes the same meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}.new")
    new.write_text(text)
    new.replace(path)
