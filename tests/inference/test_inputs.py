"""What a request says of its input pictures, seen in the picture that is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from inference.catalog import Catalog
from inference.feather import grown
from inference.job import Job, Mode
from inference.pixels import decode, fit, shrink
from tests.inference.making import PICTURES, Bench, as_png, difference, half_mask, job, plain


@pytest.fixture(scope="module")
def bench(catalog: Catalog) -> Iterator[Bench]:
    yield Bench(catalog)
    torch.set_grad_enabled(True)


def made(bench: Bench, wanted: Job) -> Image.Image:
    bench.seen.events.clear()
    bench.submit(wanted)
    bench.finish()
    return bench.seen.picture(wanted.id)


class TestMaskBlur:
    WANTED = job(model="flux", mode=Mode.INPAINT, mask_blur=10)

    def test_it_is_the_plain_call_under_a_grown_mask_and_a_soft_edge(
        self, bench: Bench, catalog: Catalog
    ) -> None:
        expected = plain(catalog.models["flux"], self.WANTED)
        assert made(bench, self.WANTED).tobytes() == expected.tobytes()

    def test_it_paints_over_the_edge_and_no_further(self, bench: Bench) -> None:
        soft = np.asarray(made(bench, self.WANTED))
        sharp = np.asarray(made(bench, replace(self.WANTED, mask_blur=0)))
        source = np.asarray(fit(decode(PICTURES["source"]), 64, 64))
        beyond = np.asarray(grown(half_mask(), 10)) == 0
        between = ~beyond & (np.asarray(half_mask()) == 0)
        assert (soft[beyond] == source[beyond]).all()
        assert (sharp[between] == source[between]).all()
        assert (soft[between] != source[between]).mean() > 0.5


class TestDownsizing:
    @pytest.mark.parametrize("mode", [Mode.IMG2IMG, Mode.INPAINT])
    def test_it_is_as_if_small_pictures_had_been_sent(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, mode: Mode
    ) -> None:
        large = {"source": Image.effect_noise((200, 100), 90), "mask": half_mask(200, 100)}
        small = {name: shrink(one, 0.0008) for name, one in large.items()}
        assert small["source"].size == (40, 20)
        wanted = job(model="flux", mode=mode, strength=0.3)
        for name, one in large.items():
            monkeypatch.setitem(PICTURES, name, as_png(one))
        whole = made(bench, wanted)
        shrunk = made(bench, replace(wanted, downsizing_mp=0.0008))
        for name, one in small.items():
            monkeypatch.setitem(PICTURES, name, as_png(one))
        assert shrunk.tobytes() == made(bench, wanted).tobytes()
        assert difference(shrunk, whole) > 1

    def test_nothing_is_enlarged(self, bench: Bench) -> None:
        wanted = job(model="flux", mode=Mode.IMG2IMG)
        assert made(bench, replace(wanted, downsizing_mp=9)).tobytes() == (
            made(bench, wanted).tobytes()
        )
