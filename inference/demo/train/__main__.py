"""Make the demo model in one command: `python -m inference.demo.train --out DIR`.

Without --minutes the number of steps decides, and the same seed gives the same model on the same
machine; with it, every stage also stops at its share of that time. A stage can be run alone, and
the transformer's goes on from its last checkpoint.

The stages lora, fill and edit derive models from the generator and write them beside it. Each may
take --minutes of its own; with --resume, fill and edit go on from their last checkpoint, on other
drawings and with a schedule of their own.
"""

import argparse
from pathlib import Path

from inference.demo.train.assemble import assemble
from inference.demo.train.common import Budget, launch
from inference.demo.train.derive import NAMES, derive
from inference.demo.train.evaluate import evaluate
from inference.demo.train.text import train_text
from inference.demo.train.transformer import train_transformer
from inference.demo.train.vae import train_decoder, train_joint

STAGES = ("text", "vae", "decoder", "transformer", "assemble", "evaluate")
DERIVED = tuple(NAMES)
STEPS = {"text": 1000, "vae": 2270, "decoder": 2500, "transformer": 7000}
SHARES = {"text": 0.04, "vae": 0.15, "decoder": 0.16, "transformer": 0.65}
PICTURES = 48_000


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m inference.demo.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the pipeline")
    parser.add_argument("--work", type=Path, help="folder for checkpoints (default: OUT-work)")
    parser.add_argument(
        "--stage", choices=STAGES + DERIVED, action="append", help="only this stage"
    )
    parser.add_argument("--resume", action="store_true", help="go on from a checkpoint")
    parser.add_argument("--minutes", type=float, help="limit for the whole training")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply all numbers of steps")
    parser.add_argument("--workers", type=int, default=2, help="CPU processes, one thread each")
    parser.add_argument("--device", default="cpu", help="cpu, or a GPU such as cuda")
    parser.add_argument("--prompts", type=int, default=200, help="prompts a score is taken over")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def budget(options: argparse.Namespace, stage: str) -> Budget:
    """Return how long a stage may take."""
    limit = options.minutes and 60 * options.minutes * SHARES[stage]
    return Budget(max(1, round(STEPS[stage] * options.scale)), limit)


def main() -> None:
    """Run the stages asked for, all of them by default."""
    options = parse()
    work = options.work or options.out.with_name(options.out.name + "-work")
    work.mkdir(parents=True, exist_ok=True)
    stages, workers = options.stage or (*STAGES, *DERIVED), options.workers
    if "text" in stages:
        # So small that a second worker would wait for the first.
        launch(train_text, 1, options.device, work, budget(options, "text"), options.seed)
    for stage, train in (("vae", train_joint), ("decoder", train_decoder)):
        if stage in stages:
            limit = budget(options, stage)
            launch(train, workers, options.device, work, limit, options.seed)
    if "transformer" in stages:
        limit, pictures = budget(options, "transformer"), round(PICTURES * min(1, options.scale))
        seed = options.seed
        launch(train_transformer, workers, options.device, work, limit, seed, pictures)
    if "assemble" in stages:
        assemble(work, options.out)
    if "evaluate" in stages:
        evaluate(options.out, options.prompts, options.device)
    for stage in DERIVED:
        if stage in stages:
            derive(
                stage,
                options.out,
                work,
                workers=workers,
                device=options.device,
                scale=options.scale,
                minutes=options.minutes,
                seed=options.seed,
                resume=options.resume,
                count=options.prompts,
            )


if __name__ == "__main__":
    main()
