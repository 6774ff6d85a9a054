"""Raters, captioners and writers that run here: real models of transformers, tiny ones."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import ViTForImageClassification

from inference.assistants.captioner import LocalCaptioner
from inference.assistants.enhancer import LocalChat
from inference.assistants.late import Late
from inference.assistants.rater import _USUAL, LocalRater
from inference.assistants.spec import RaterSpec
from inference.errors import ModelFailed, PipelineFailed
from inference.loading import LOAD_LOCK
from tests.inference import taught
from tests.inference.taught import COLOURS, plain_picture

ALL = list(COLOURS)
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def classifier(shelf: Path) -> Path:
    labels = {"normal": ["green", "blue"], "NSFW": ["red"]}
    return taught.classifier(shelf / "classifier", labels)


@pytest.fixture(scope="module")
def clip(shelf: Path) -> Path:
    texts = {"red": _USUAL["nsfw"], "green": _USUAL["sfw"], "blue": "on blue water"}
    return taught.clip(shelf / "clip", texts)


@pytest.fixture(scope="module")
def captioner(shelf: Path) -> Path:
    captions = {"red": "a red wall", "green": "grass", "blue": "the sea at night"}
    return taught.captioner(shelf / "captioner", captions)


REPLIES = {"red": '{"positive": "a red wall"}', "blue": "the blue sea"}


@pytest.fixture(scope="module")
def chat(shelf: Path) -> Path:
    return taught.language_model(shelf / "chat", REPLIES, "<user> so it is {} <reply>")


def rated(spec: RaterSpec, levels: dict[str, str] | None = None) -> list[str]:
    rater = LocalRater(spec)
    return [rater.rate(plain_picture(colour), levels or {}) for colour in ALL]


def test_a_classifier_says_what_is_not_safe(classifier: Path) -> None:
    assert rated(RaterSpec(classifier=str(classifier))) == ["nsfw", "sfw", "sfw"]


def test_which_labels_are_not_safe_is_configured(classifier: Path) -> None:
    spec = RaterSpec(classifier=str(classifier), nsfw_labels=("Normal",))
    assert rated(spec) == ["sfw", "nsfw", "nsfw"]


def half_red() -> Image.Image:
    half = Image.new("RGB", (40, 40), COLOURS["red"])
    half.paste(COLOURS["green"], (0, 0, 20, 40))
    return half


def test_the_shares_of_labels_add_up(classifier: Path) -> None:
    both = ("nsfw", "normal")
    spec = RaterSpec(classifier=str(classifier), nsfw_labels=both, threshold=0.9999)
    assert LocalRater(spec).rate(half_red(), {}) == "nsfw"


def test_a_picture_is_not_safe_from_the_threshold_on(classifier: Path) -> None:
    """Whether half red is enough depends on it alone."""
    half = half_red()
    share = LocalRater(RaterSpec(classifier=str(classifier)))._nsfw(half)
    assert 0.001 < share < 0.999
    for threshold, level in ((share + 5e-4, "sfw"), (share - 5e-4, "nsfw")):
        spec = RaterSpec(classifier=str(classifier), threshold=threshold)
        assert LocalRater(spec).rate(half, {}) == level


def test_labels_that_hold_together_are_not_weighed_against_each_other(shelf: Path) -> None:
    labels = {"gore": ["red"], "warm": ["red"], "weapon": ["blue"]}
    folder = taught.classifier(shelf / "several", labels, several=True)
    spec = RaterSpec(classifier=str(folder), nsfw_labels=("gore", "weapon"), threshold=0.7)
    assert rated(spec) == ["nsfw", "sfw", "nsfw"]


def test_a_clip_gives_the_level_whose_description_fits(clip: Path) -> None:
    spec = RaterSpec(clip=str(clip))
    described = {"3": "on blue water", "1": _USUAL["sfw"], "2": _USUAL["nsfw"]}
    assert rated(spec, described) == ["2", "1", "3"]
    named = {"on blue water": "", _USUAL["sfw"]: ""}
    assert rated(spec, named)[1:] == [_USUAL["sfw"], "on blue water"]


def test_a_siglip_reads_texts_as_long_as_those_it_was_taught(shelf: Path) -> None:
    """It knows no mask, so a text that is padded otherwise is another text to it."""
    texts = {"red": "on fire", "green": "a lawn", "blue": "on blue water"}
    spec = RaterSpec(clip=str(taught.siglip(shelf / "siglip", texts)))
    assert rated(spec, dict(zip("123", texts.values(), strict=True))) == ["1", "2", "3"]
    rater = LocalRater(spec)
    shares = rater._compare(plain_picture("red"), [(text, text) for text in texts.values()])
    eye = rater._clip.get()
    ids = eye.words(list(texts.values()), padding="max_length", max_length=77, return_tensors="pt")
    with torch.inference_mode():
        told = eye.model(pixel_values=eye.pixels(plain_picture("red")), **ids).logits_per_image
    assert shares == pytest.approx(told[0].softmax(0).tolist(), abs=1e-5)


def test_a_clip_alone_knows_what_is_not_safe(clip: Path) -> None:
    assert rated(RaterSpec(clip=str(clip)))[:2] == ["nsfw", "sfw"]


def test_a_description_longer_than_the_clip_reads_is_cut(clip: Path) -> None:
    levels = {"long": "zwölf boxkämpfer " * 40, "green": _USUAL["sfw"]}
    assert LocalRater(RaterSpec(clip=str(clip))).rate(plain_picture("green"), levels) == "green"


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "1", "CMYK"])
def test_a_picture_of_any_mode_can_be_looked_at(
    classifier: Path, clip: Path, captioner: Path, mode: str
) -> None:
    picture = plain_picture("green", mode=mode)
    rater = LocalRater(RaterSpec(classifier=str(classifier), clip=str(clip)))
    assert rater.rate(picture, {}) in ("sfw", "nsfw")
    assert rater.rate(picture, {"a": "", "b": ""}) in ("a", "b")
    assert LocalCaptioner(str(captioner), None, "cpu").describe(picture, 10)


def test_a_captioner_says_what_it_sees(captioner: Path) -> None:
    model = LocalCaptioner(str(captioner), None, "cpu")
    told = [model.describe(plain_picture(colour), 10) for colour in ALL]
    assert told == ["a red wall", "grass", "the sea at night"]


def test_a_language_model_answers_what_it_is_asked(chat: Path) -> None:
    """By a template that knows no system's voice, as some have."""
    model = LocalChat(str(chat), None, "cpu")
    for word, reply in REPLIES.items():
        system = {"role": "system", "content": "so it"}
        asked = [system, {"role": "user", "content": f"is {word}"}]
        assert model.reply(asked, 10) == reply


def test_a_language_model_without_a_template_goes_on_with_the_text(shelf: Path) -> None:
    folder = taught.language_model(shelf / "base", REPLIES, "it is {}", template=None)
    asked = [{"role": "system", "content": "it"}, {"role": "user", "content": "is blue"}]
    assert LocalChat(str(folder), None, "cpu").reply(asked, 10) == REPLIES["blue"]


@pytest.mark.parametrize(("template", "begun"), [(taught.TEMPLATE, 0), (None, 1)])
def test_only_a_text_that_no_template_made_is_begun_for_the_model(
    shelf: Path, template: str | None, begun: int
) -> None:
    """A template says itself how a text begins."""
    folder = shelf / f"begun-{begun}"
    taught.language_model(folder, REPLIES, "<s> {}", template=template)
    chat = LocalChat(str(folder), None, "cpu")
    model, tokenizer = chat._loaded.get()
    read: list[torch.Tensor] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"]), with_kwargs=True
    )
    chat.reply([{"role": "user", "content": "red"}], 10)
    assert int((read[0] == tokenizer.bos_token_id).sum()) == begun


def test_a_language_model_stops_when_its_time_is_over(shelf: Path) -> None:
    endless = " ".join(f"word{number}" for number in range(30))
    lessons = {"red": f"{endless} word0 {endless}"}
    folder = taught.language_model(shelf / "endless", lessons, "<user> {} <reply>")
    model = LocalChat(str(folder), None, "cpu")
    asked = [{"role": "user", "content": "red"}]
    assert model.reply(asked, 10).startswith("word0 word1 word2")
    assert len(model.reply(asked, 1e-4).split()) <= 2


def spoilt(folder: Path, name: str, change: Callable[[Path], Any]) -> str:
    copy = folder.parent / name
    shutil.copytree(folder, copy)
    change(copy)
    return str(copy)


def as_pickle(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def as_own_code(folder: Path) -> None:
    (folder / "config.json").write_text(
        '{"model_type": "own", "auto_map": {"AutoConfig": "own.Own",'
        ' "AutoModelForImageClassification": "own.Own"}}'
    )
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Own: pass\n")


@pytest.mark.parametrize("spoil", [as_pickle, as_own_code])
def test_neither_pickles_nor_code_of_a_checkpoint_are_run(
    classifier: Path, spoil: Callable[[Path], None]
) -> None:
    source = spoilt(classifier, spoil.__name__, spoil)
    with pytest.raises(ModelFailed):
        rated(RaterSpec(classifier=source))
    assert not (Path(source) / "ran").exists()


def test_a_label_that_the_classifier_does_not_have_is_told(classifier: Path) -> None:
    spec = RaterSpec(classifier=str(classifier), nsfw_labels=("porn",))
    with pytest.raises(ModelFailed, match="nsfw_labels: it has no 'porn'; it has normal, NSFW"):
        rated(spec)


def test_numbers_that_are_none_give_no_level(classifier: Path, shelf: Path) -> None:
    model = ViTForImageClassification.from_pretrained(classifier)
    model.classifier.bias.data.fill_(float("nan"))
    shutil.copytree(classifier, shelf / "nan")
    model.save_pretrained(shelf / "nan")
    with pytest.raises(PipelineFailed):
        rated(RaterSpec(classifier=str(shelf / "nan")))


def test_a_model_that_fails_is_tried_again_later(
    classifier: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = 0

    def load() -> str:
        nonlocal loads
        loads += 1
        if loads == 1:
            raise OSError("not yet\nand more")
        return "here"

    late = Late(load, retry_seconds=600)
    for _ in range(2):
        with pytest.raises(ModelFailed, match=r"^not yet$"):
            late.get()
    assert loads == 1
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 600)
    assert (late.get(), late.get(), loads) == ("here", "here", 2)


def test_nothing_is_built_while_another_model_is(classifier: Path) -> None:
    done = threading.Event()
    rater = LocalRater(RaterSpec(classifier=str(classifier)))
    thread = threading.Thread(target=lambda: (rater.rate(plain_picture("red"), {}), done.set()))
    with LOAD_LOCK:
        thread.start()
        waited = not done.wait(0.5)
    thread.join(30)
    assert waited and done.is_set()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
def test_a_card_sees_and_says_the_same(
    classifier: Path, clip: Path, captioner: Path, chat: Path
) -> None:
    spec = RaterSpec(classifier=str(classifier), clip=str(clip), device="cuda")
    assert rated(spec) == ["nsfw", "sfw", "sfw"]
    levels = {"3": "on blue water", "1": _USUAL["sfw"], "2": _USUAL["nsfw"]}
    assert rated(spec, levels) == ["2", "1", "3"]
    model = LocalCaptioner(str(captioner), None, "cuda")
    assert model.describe(plain_picture("green"), 10) == "grass"
    asked = [{"role": "user", "content": "so it is blue"}]
    assert LocalChat(str(chat), None, "cuda").reply(asked, 10) == REPLIES["blue"]
