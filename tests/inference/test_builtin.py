"""What ships: models.yaml, the demo model, and pictures made by it that show their prompts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from inference.catalog import Catalog, load_catalog
from inference.demo.judge import judge
from inference.demo.scenes import Scene
from inference.job import ImageRequest, Job
from inference.resolve import resolve
from inference.status import Lane
from tests.inference.making import Bench, difference, plain

WISHES = {
    "a red circle": Scene(colour="red", shape="circle"),
    "a blue star": Scene(colour="blue", shape="star"),
    "a green square on a black background": Scene(
        colour="green", shape="square", background="black"
    ),
    "a large pink heart in the center on a blue background": Scene(
        colour="pink", shape="heart", background="blue", size="large", position="center"
    ),
    "an orange diamond": Scene(colour="orange", shape="diamond"),
    "a purple triangle on a yellow background": Scene(
        colour="purple", shape="triangle", background="yellow"
    ),
}
RATIOS = ["1:1", "4:3", "3:4", "3:2", "2:3", "16:9", "9:16"]


@pytest.fixture(scope="module")
def shipped(root: Path) -> Catalog:
    return load_catalog(root / "models.yaml")


@pytest.fixture(scope="module")
def bench(shipped: Catalog) -> Iterator[Bench]:
    yield Bench(shipped)
    torch.set_grad_enabled(True)


def asked(catalog: Catalog, prompt: str, seed: int, name: str, ratio: str = "1:1") -> Job:
    request = ImageRequest(model="auto", prompt=prompt, seed=seed, aspect_ratio=ratio)
    return resolve(catalog, request, job_id=name)


def test_pictures_made_together_show_their_prompts(bench: Bench, shipped: Catalog) -> None:
    """Each prompt twice, all in one queue; one of the twelve may be off."""
    jobs = {
        f"{prompt} {seed}": asked(shipped, prompt, seed, f"{prompt} {seed}")
        for prompt in WISHES
        for seed in (1, 2)
    }
    for job in jobs.values():
        bench.submit(job)
    bench.finish()
    right = [judge(bench.seen.picture(job.id), WISHES[job.prompt]).right for job in jobs.values()]
    assert sum(right) >= len(right) - 1, dict(zip(jobs, right, strict=True))


def test_every_ratio_that_clients_send_is_made_and_shows_its_prompt(
    bench: Bench, shipped: Catalog
) -> None:
    jobs = [asked(shipped, "a red circle", 5, ratio, ratio) for ratio in RATIOS]
    for job in jobs:
        bench.submit(job)
    bench.finish()
    pictures = [bench.seen.picture(job.id) for job in jobs]
    assert [picture.size for picture in pictures] == [(job.width, job.height) for job in jobs]
    assert len({picture.size for picture in pictures}) == len(RATIOS)
    scene = WISHES["a red circle"]
    assert sum(judge(picture, scene).right for picture in pictures) >= len(RATIOS) - 1


def test_the_judge_would_notice_another_prompt(bench: Bench, shipped: Catalog) -> None:
    bench.submit(asked(shipped, "a blue star", 3, "star"))
    bench.finish()
    assert not judge(bench.seen.picture("star"), WISHES["a red circle"]).right


def test_the_demo_model_merges_in_every_mode(bench: Bench, shipped: Catalog) -> None:
    bench.submit(asked(shipped, "a red circle", 1, "warm-up"))
    bench.finish()
    status = next(one for one in bench.worker.status(True).models if one.name == "tiny-flux")
    assert set(status.lanes.values()) == {Lane.MERGE}
    assert list(status.lanes) == list(shipped.models["tiny-flux"].modes)


def test_a_seed_means_one_picture_whoever_shares_the_batch(bench: Bench, shipped: Catalog) -> None:
    wanted = asked(shipped, "a red circle", 9, "wanted")
    bench.submit(wanted)
    for number in range(5):
        other = asked(shipped, "a blue star", number, f"other{number}")
        bench.submit(replace(other, num_inference_steps=4 + number))
        bench.ticks(1)
    bench.finish()
    alone = plain(shipped.models["tiny-flux"], wanted)
    assert difference(bench.seen.picture("wanted"), alone) <= 1
