"""What is installed is what was tested, and what is shipped is complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINES = (ROOT / "constraints.txt").read_text().splitlines()
PINS = {
    canonicalize_name(name): Version(number) for name, number in (one.split("==") for one in LINES)
}
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
WANTED = [
    *PROJECT["build-system"]["requires"],
    *PROJECT["project"]["dependencies"],
    *(one for extra in EXTRAS.values() for one in extra),
]


@pytest.mark.parametrize("text", sorted(set(WANTED)))
def test_every_dependency_is_pinned_within_its_range(text: str) -> None:
    requirement = Requirement(text)
    pin = PINS[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pin, prereleases=True)


def test_constraints_are_plain_pins_in_order() -> None:
    """Nothing but name==version: no option, no address, so any index serves them."""
    assert [line for line in LINES if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][\w.]*", line)] == []
    assert len(PINS) == len(LINES)
    assert list(PINS) == sorted(PINS)


def test_the_pins_are_the_versions_under_test() -> None:
    """A local build such as +cpu counts as its release; what is not installed is not judged."""
    wrong = []
    for name, pin in PINS.items():
        try:
            found = Version(version(name))
        except PackageNotFoundError:
            continue
        if found.public != pin.public:
            wrong.append(f"{name}: pinned {pin}, installed {found}")
    assert wrong == []


def test_everything_installed_is_pinned() -> None:
    """Else two installs a day apart could differ; what torch's CUDA build brings, torch pins."""
    pip = [sys.executable, "-m", "pip", "list", "--format=freeze", "--exclude-editable"]
    listed = subprocess.run(pip, capture_output=True, text=True, check=True).stdout.split()
    names = {canonicalize_name(one.partition("==")[0]) for one in listed}
    names -= {"pip", "setuptools", "wheel", "darkroom", "triton"}
    names = {name for name in names if not name.startswith(("nvidia-", "cuda-"))}
    assert names - set(PINS) == set()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_file_of_both_packages(wheel: zipfile.ZipFile) -> None:
    git = ["git", "ls-files", "inference", "api"]
    listed = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    assert tracked - set(wheel.namelist()) == set()


def test_the_wheel_serves_the_same_models(wheel: zipfile.ZipFile) -> None:
    assert wheel.read("inference/models.yaml") == (ROOT / "models.yaml").read_bytes()


def test_the_wheel_gives_the_command(wheel: zipfile.ZipFile) -> None:
    (entry,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "darkroom = api.cli.commands:main" in wheel.read(entry).decode()


def test_the_ci_script_is_a_script() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text()
    assert "make check" in text
    assert "make test" in text
