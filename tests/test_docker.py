"""Dockerfile.cuda, as far as a machine without a container engine and a GPU can check it."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from api.settings import Settings

ROOT = Path(__file__).parent.parent
DOCKERFILE = ROOT / "Dockerfile.cuda"
GPU_EXTRA = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]["cuda"]


def instructions(text: str) -> list[tuple[str, str]]:
    """Every instruction as its word and its rest, continuation lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    pairs = (line.partition(" ") for line in joined.splitlines() if line.strip())
    return [(word, rest.strip()) for word, _, rest in pairs]


STEPS = instructions(DOCKERFILE.read_text())


def rests(word: str) -> list[str]:
    return [rest for name, rest in STEPS if name == word]


def variables() -> dict[str, str]:
    pairs = (pair.split("=", 1) for rest in rests("ENV") for pair in rest.split())
    return dict(pair for pair in pairs if len(pair) == 2)


def copied() -> list[str]:
    """What the image takes from the build context."""
    sources = [rest.split()[:-1] for rest in rests("COPY") if not rest.startswith("--from")]
    return [source for group in sources for source in group]


def context() -> list[str]:
    """The entries of the repository that .dockerignore lets into the build."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line[1:].rstrip("/") for line in lines if line.startswith("!")]


def test_the_linter_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    run = subprocess.run([hadolint, "--no-color", DOCKERFILE], capture_output=True, text=True)
    assert (run.stdout, run.returncode) == ("", 0)


def test_the_linter_would_speak_up(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM ubuntu\nRUN cd /tmp && sudo apt-get install curl\n")
    hadolint = Path(sys.executable).parent / "hadolint"
    assert subprocess.run([hadolint, bad], capture_output=True, check=False).returncode == 1


def test_everything_copied_is_there_and_let_in() -> None:
    assert [name for name in copied() if not (ROOT / name).exists()] == []
    assert set(copied()) <= set(context())


def test_it_does_not_run_as_root() -> None:
    user = rests("USER")[-1]
    number = int(user.partition(":")[0])
    assert number > 0
    assert f"--uid {number} " in " ".join(rests("RUN"))


def test_its_variables_are_settings() -> None:
    named = {name for name in variables() if name.startswith("DARKROOM_")}
    known = {f"DARKROOM_{field.upper()}" for field in Settings.model_fields}
    assert named <= known
    assert variables()["DARKROOM_PORT"] in rests("EXPOSE")


def test_what_must_survive_lies_in_volumes() -> None:
    volumes = json.loads(rests("VOLUME")[0])
    kept = [variables()[name] for name in ("DARKROOM_DATA_DIR", "HF_HOME", "TRITON_CACHE_DIR")]
    assert all(any(path.startswith(volume) for volume in volumes) for path in kept)


def test_the_early_layer_installs_just_what_the_extra_names() -> None:
    (early,) = (rest for rest in rests("RUN") if rest.startswith("pip") and ".[" not in rest)
    names = set(early.partition("constraints.txt ")[2].split())
    assert names == {"torch", *(Requirement(one).name for one in GPU_EXTRA)}


def test_every_shell_line_parses() -> None:
    for line in rests("RUN"):
        subprocess.run(["bash", "-n", "-c", line], check=True)


def test_its_system_packages_exist() -> None:
    """By this system's own lists, where it is a Debian and has any; the image is an Ubuntu."""
    if shutil.which("apt-cache") is None:
        pytest.skip("no apt here")
    lists = [run for run in rests("RUN") if "apt-get install" in run]
    names = {
        name
        for run in lists
        for name in run.partition("--no-install-recommends")[2].partition("&&")[0].split()
    }
    assert {"gcc", "g++", "python3-dev"} <= names
    policy = subprocess.run(["apt-cache", "policy", *names], capture_output=True, text=True)
    if "Candidate:" not in policy.stdout:
        pytest.skip("apt has no package lists here")
    assert policy.stdout.count("Candidate:") == len(names)
    assert "Candidate: (none)" not in policy.stdout


@contextmanager
def answering(status: int) -> Iterator[tuple[int, list[str]]]:
    """A server on a free port that answers everything with `status`, and the paths it was asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port, asked
        server.shutdown()
        thread.join()


def healthcheck(port: int) -> int:
    command = json.loads(rests("HEALTHCHECK")[0].partition("CMD ")[2])
    environment = {**os.environ, "DARKROOM_PORT": str(port)}
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode


def test_the_health_check_asks_whether_the_process_is_alive() -> None:
    with answering(200) as (port, asked):
        assert healthcheck(port) == 0
    assert asked == ["/livez"]
    assert healthcheck(port) != 0
    with answering(500) as (port, _):
        assert healthcheck(port) != 0


def cpu_torch() -> str | None:
    """The release of a CPU build of the pinned torch among pip's local files."""
    pin = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert pin is not None
    pip = [sys.executable, "-m", "pip", "config", "list"]
    text = subprocess.run(pip, capture_output=True, text=True, check=True).stdout
    folders = re.findall(r"find-links='([^']*)'", text)
    names = [path.name for folder in folders for path in Path(folder).glob("torch-*.whl")]
    wanted = f"torch-{pin[1]}+cpu-"
    return f"{pin[1]}+cpu" if any(name.startswith(wanted) for name in names) else None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_its_pip_steps_install_in_a_clean_environment(tmp_path: Path) -> None:
    """The very lines of the Dockerfile; torch is held to its CPU build, as CUDA is gigabytes."""
    torch = cpu_torch()
    if torch is None:
        pytest.skip("no CPU build of the pinned torch among pip's find-links")
    source = tmp_path / "src"
    source.mkdir()
    for name in context():
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pins = source / "constraints.txt"
    pins.write_text(re.sub(r"(?m)^torch==.*$", f"torch=={torch}", pins.read_text()))
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    path = f"{tmp_path / 'venv' / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PIP_NO_CACHE_DIR": "1"}

    def run(line: str, folder: Path) -> str:
        command = ["bash", "-o", "pipefail", "-c", line]
        ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr[-2000:]
        return ran.stdout

    steps = [rest for rest in rests("RUN") if rest.startswith("pip install")]
    assert len(steps) == 2
    for step in steps:
        run(step, source)
    run("pip check", tmp_path)
    assert "darkroom 0." in run("darkroom --version", tmp_path)
    assert "tiny-flux" in run("darkroom models", tmp_path)
    assert "+cpu" in run("python -c 'import torch; print(torch.__version__)'", tmp_path)
    # pytest keeps its folders, and this one holds 1.5 GB
    shutil.rmtree(tmp_path / "venv")
