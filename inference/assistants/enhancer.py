"""A local language model that answers a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from inference.assistants.late import Late, load_part, load_weights
from inference.hub.download import Download

MOST_TOKENS = 600

Messages = Sequence[Mapping[str, str]]


class LocalChat:
    """Answers as the likeliest words go, so the same question gets the same answer.

    Used by one thread.
    """

    def __init__(
        self, folder: str, revision: str | None, device: str, download: Download | None = None
    ) -> None:
        self._place = (folder, revision)
        self._device = device
        self._loaded: Late[tuple[Any, Any]] = Late(self._load, [self._place], download)

    def reply(self, messages: Messages, max_seconds: float) -> str:
        """The answer, as far as it gets in time; raises ModelFailed."""
        model, tokenizer = self._loaded.get()
        text, templated = _spoken(tokenizer, messages)
        words = tokenizer(text, return_tensors="pt", add_special_tokens=not templated)
        asked = words["input_ids"].to(model.device)
        with torch.inference_mode():
            made = model.generate(
                input_ids=asked,
                attention_mask=words["attention_mask"].to(model.device),
                do_sample=False,
                max_new_tokens=MOST_TOKENS,
                max_time=max_seconds,
            )
        return str(tokenizer.decode(made[0, asked.shape[1] :], skip_special_tokens=True))

    def _load(self) -> tuple[Any, Any]:
        model = load_weights("AutoModelForCausalLM", *self._place, self._device)
        return model, load_part("AutoTokenizer", *self._place)


def _spoken(tokenizer: Any, messages: Messages) -> tuple[str, bool]:
    """A conversation as one text, and whether the model's own template made it."""
    together = "\n\n".join(message["content"] for message in messages)
    if not tokenizer.chat_template:
        return together + "\n\n", False
    # Thinking aloud takes longer than anybody waits; templates that know no such word ignore it.
    options = {"add_generation_prompt": True, "tokenize": False, "enable_thinking": False}
    try:
        return tokenizer.apply_chat_template(list(messages), **options), True
    except Exception:
        # Some models' templates refuse a system's voice; what else is wrong shows again.
        alone = [{"role": "user", "content": together}]
        return tokenizer.apply_chat_template(alone, **options), True
