"""Tiny models of transformers, made from their configs and taught in a second what tests ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from inference.demo import TINY_FLUX

SIDE = 32
COLOURS = {"red": (220, 40, 40), "green": (40, 160, 70), "blue": (40, 90, 215)}
_SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
_SEEING = {**_SMALL, "image_size": SIDE, "patch_size": 16}


def plain_picture(colour: str, size: tuple[int, int] = (48, 40), mode: str = "RGB") -> Image.Image:
    """A picture of nothing but one colour."""
    return Image.new("RGB", size, COLOURS[colour]).convert(mode)


@torch.enable_grad()
def _teach(model: Any, loss_of: Callable[[], torch.Tensor], goal: float, steps: int = 400) -> None:
    torch.manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(steps):
        loss = loss_of()
        if loss < goal:
            return
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    raise AssertionError(f"not learnt: loss {loss:.3f}")


def _pixels(processor: Any, colours: Sequence[str]) -> torch.Tensor:
    pictures = [plain_picture(colour) for colour in colours]
    return torch.as_tensor(processor(images=pictures, return_tensors="pt")["pixel_values"])


def classifier(folder: Path, labels: dict[str, Sequence[str]], *, several: bool = False) -> Path:
    """A ViT that gives a picture each label whose colours are its own; `several` at once."""
    torch.manual_seed(0)
    names = list(labels)
    kind = "multi_label_classification" if several else "single_label_classification"
    config = ViTConfig(
        **_SEEING, id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)}
    )
    config.problem_type = kind
    model = ViTForImageClassification(config)
    processor = ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})
    pixels = _pixels(processor, list(COLOURS))
    truth = torch.tensor([[float(c in labels[n]) for n in names] for c in COLOURS])
    wanted = truth if several else truth.argmax(1)
    _teach(model, lambda: model(pixel_values=pixels, labels=wanted).loss, goal=0.02)
    return _saved(folder, model, processor)


def clip(folder: Path, texts: dict[str, str]) -> Path:
    """A CLIP that finds the text of each colour nearest to a picture of it."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(TINY_FLUX / "tokenizer")
    config = CLIPConfig(text_config=_reading(tokenizer), vision_config=_SEEING, projection_dim=16)
    sized = {"height": SIDE, "width": SIDE}
    processor = CLIPImageProcessorPil(size=sized, crop_size=sized)
    return _matching(folder, CLIPModel(config), processor, tokenizer, texts)


def siglip(folder: Path, texts: dict[str, str]) -> Path:
    """A SigLIP that does, on texts padded to their full length as those are taught."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(TINY_FLUX / "tokenizer")
    tokenizer.model_input_names = ["input_ids"]
    reading = {**_reading(tokenizer), "projection_size": 16}
    config = SiglipConfig(text_config=reading, vision_config=_SEEING)
    processor = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    padded = {"padding": "max_length", "max_length": 77}
    return _matching(folder, SiglipModel(config), processor, tokenizer, texts, **padded)


def _reading(tokenizer: Any) -> dict[str, Any]:
    return {
        **_SMALL,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 77,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _matching(
    folder: Path, model: Any, processor: Any, tokenizer: Any, texts: dict[str, str], **padded: Any
) -> Path:
    pixels = _pixels(processor, list(texts))
    padded = padded or {"padding": True}
    words = tokenizer(list(texts.values()), return_tensors="pt", **padded)

    def loss() -> torch.Tensor:
        told: torch.Tensor = model(pixel_values=pixels, **words, return_loss=True).loss
        return told

    _teach(model, loss, goal=0.1)
    return _saved(folder, model, processor, tokenizer)


def captioner(folder: Path, captions: dict[str, str]) -> Path:
    """A BLIP that says of a picture of one colour what it was told to."""
    torch.manual_seed(0)
    words = sorted({word for caption in captions.values() for word in caption.split()})
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
    vocab = {word: index for index, word in enumerate([*marks, *words])}
    tokenizer = BertTokenizer(vocab=vocab, bos_token="[DEC]")
    config = BlipConfig(
        text_config={
            **_SMALL,
            "encoder_hidden_size": 16,
            "projection_dim": 16,
            "vocab_size": len(vocab),
            "bos_token_id": vocab["[DEC]"],
            "sep_token_id": vocab["[SEP]"],
            "eos_token_id": vocab["[SEP]"],
            "pad_token_id": vocab["[PAD]"],
        },
        vision_config=_SEEING,
        projection_dim=16,
    )
    model = BlipForConditionalGeneration(config)
    processor = BlipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    pixels = _pixels(processor, list(captions))
    ids = tokenizer(list(captions.values()), padding=True, return_tensors="pt").input_ids
    ids[:, 0] = vocab["[DEC]"]
    labels = ids.masked_fill(ids == vocab["[PAD]"], -100)

    def loss() -> torch.Tensor:
        told: torch.Tensor = model(pixel_values=pixels, input_ids=ids, labels=labels).loss
        return told

    _teach(model, loss, goal=0.1)
    return _saved(folder, model, processor, tokenizer)


TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "<user> {{ message['content'] }} {% endfor %}<reply>"
)


def language_model(
    folder: Path, replies: dict[str, str], context: str, template: str | None = TEMPLATE
) -> Path:
    """A Llama that answers a text holding one of the words with that word's reply.

    `context` stands before the word in what it is taught, as `{}` there.
    """
    torch.manual_seed(0)
    pieces = [piece for reply in replies.values() for piece in reply.split()]
    vocab = ["<unk>", "<s>", "</s>", "<user>", "<reply>", *replies, *pieces]
    ids = {piece: index for index, piece in enumerate(dict.fromkeys(vocab))}
    words = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", ids["<s>"])]
    )
    marks = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **marks)
    tokenizer.chat_template = template
    config = LlamaConfig(
        **_SMALL,
        vocab_size=len(ids),
        max_position_embeddings=1024,
        bos_token_id=ids["<s>"],
        eos_token_id=ids["</s>"],
        pad_token_id=ids["</s>"],
    )
    model = LlamaForCausalLM(config)
    taught = [_lesson(tokenizer, context.format(word), reply) for word, reply in replies.items()]

    def loss() -> torch.Tensor:
        losses = [model(input_ids=asked, labels=told).loss for asked, told in taught]
        return torch.stack(losses).sum()

    _teach(model, loss, goal=0.05)
    return _saved(folder, model, tokenizer)


def _lesson(tokenizer: Any, asked: str, reply: str) -> tuple[torch.Tensor, torch.Tensor]:
    before = tokenizer(asked, return_tensors="pt", add_special_tokens=False).input_ids
    after = tokenizer(reply + " </s>", return_tensors="pt", add_special_tokens=False).input_ids
    return torch.cat([before, after], 1), torch.cat([torch.full_like(before, -100), after], 1)


def _saved(folder: Path, model: Any, *parts: Any) -> Path:
    for part in (model.eval(), *parts):
        part.save_pretrained(folder)
    return folder
