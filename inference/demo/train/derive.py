"""The stages that derive models from the generator: a style LoRA, a fill model, an edit model."""

from pathlib import Path

from diffusers import FluxTransformer2DModel

from inference.demo.derived import write_base
from inference.demo.train.assemble import tidy
from inference.demo.train.common import Budget, launch
from inference.demo.train.edit import EDIT
from inference.demo.train.edit_scores import evaluate_edits
from inference.demo.train.fill import FILL
from inference.demo.train.finetune import finetune
from inference.demo.train.inpaint_scores import evaluate_inpaint
from inference.demo.train.lora import train_lora
from inference.demo.train.lora_scores import evaluate_lora

NAMES = {"lora": "stripes", "fill": "fill", "edit": "kontext"}
STEPS = {"lora": 300, "fill": 500, "edit": 8000}
PICTURES = {"lora": 1200, "fill": 3000, "edit": 12_000}
RECIPES = {"fill": FILL, "edit": EDIT}
SCORES = {"lora": evaluate_lora, "fill": evaluate_inpaint, "edit": evaluate_edits}


def derived_folder(base: Path, stage: str) -> Path:
    """Return where a derived model lies: beside the generator."""
    return base.with_name(f"{base.name}-{NAMES[stage]}")


def derive(
    stage: str,
    base: Path,
    work: Path,
    *,
    workers: int,
    device: str,
    scale: float,
    minutes: float | None,
    seed: int,
    resume: bool,
    count: int,
) -> None:
    """Train a derived model, write it beside the generator and score it."""
    budget = Budget(max(1, round(STEPS[stage] * scale)), minutes and 60 * minutes)
    pictures = round(PICTURES[stage] * min(1, scale))
    folder, out = work / stage, derived_folder(base, stage)
    folder.mkdir(parents=True, exist_ok=True)
    if stage == "lora":
        # So small that a second worker would wait for the first.
        launch(train_lora, 1, device, base, out, budget, seed, pictures)
    else:
        args = (RECIPES[stage], base, folder, budget, seed, pictures, resume)
        launch(finetune, workers, device, *args)
        assemble_derived(folder, out)
    write_base(out, base)
    SCORES[stage](out, count)


def assemble_derived(folder: Path, out: Path) -> None:
    """Write a checkpoint's averaged transformer in half precision."""
    transformer = FluxTransformer2DModel.from_pretrained(folder / "transformer")
    transformer.half().save_pretrained(out / "transformer")
    tidy(out)
