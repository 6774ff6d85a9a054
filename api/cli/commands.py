"""The command line: parse, call, print. What a command needs is imported when it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from api.cli import accounts, destinations, keys, links, residents
from api.cli.settings import secret_of, settings_of
from api.cli.terminal import out, speaking
from inference.job import Mode

app = typer.Typer(
    help="Pictures on your own GPUs, by the APIs your clients already speak.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

app.add_typer(keys.app, name="keys")
app.add_typer(accounts.app, name="accounts")
app.add_typer(destinations.app, name="destinations")
app.add_typer(links.app, name="links")
app.add_typer(residents.app, name="models")

Models = Annotated[
    Path | None,
    typer.Option(help="What to serve. (default: ./models.yaml, else the one Darkroom ships)"),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        from api.versions import version_of

        out().print(f"darkroom {version_of('darkroom')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Say which this is."),
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on. (default: 127.0.0.1)")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port, 0 for any free one. (default: 8000)")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of tasks and pictures. (default: ./data)")
    ] = None,
    models: Models = None,
) -> None:
    """Serve the models over HTTP until Ctrl-C.

    Every flag has a DARKROOM_ variable of the same name; the flag wins.
    """
    settings = settings_of(host=host, port=port, data_dir=data_dir, models=models)
    from api.cli.serve import run

    with speaking():
        raise typer.Exit(run(settings))


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write: .png, .jpg or .webp.")
    ] = Path("out.png"),
    model: Annotated[str | None, typer.Option("--model", "-m", help="Name or alias.")] = None,
    negative: Annotated[str | None, typer.Option(help="What to avoid.")] = None,
    size: Annotated[
        str | None, typer.Option(help="Pixels, like 128x96; the nearest size is made.")
    ] = None,
    ratio: Annotated[str | None, typer.Option(help="Shape, like 16:9.")] = None,
    resolution: Annotated[str | None, typer.Option(help="1k, 2k or 4k.")] = None,
    quality: Annotated[str | None, typer.Option(help="One of the model's qualities.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", help="How many pictures.")] = 1,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the first picture; the next has one more.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="How closely to follow.")] = None,
    profile: Annotated[str | None, typer.Option(help="One of the model's profiles.")] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(help="A LoRA of the model, as NAME or NAME=STRENGTH; may be given again."),
    ] = None,
    lora_strength: Annotated[
        float | None, typer.Option(help="Of each --lora, or of the profile's, that says none.")
    ] = None,
    lora_rank: Annotated[
        int | None, typer.Option(help="Keep so many components of each LoRA's layers.")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="One of the model's samplers.")] = None,
    mode: Annotated[
        Mode | None, typer.Option(help="What to do with --image. (default: what it implies)")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="Picture to start from; may be given again.")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="White where --image is redrawn.")] = None,
    strength: Annotated[
        float | None, typer.Option(help="How far to leave --image, 0 to 1.")
    ] = None,
    mask_blur: Annotated[
        int | None, typer.Option(help="Pixels beyond --mask over which its edge fades.")
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(help="What guides, as TAG=FILE or TAG:WEIGHT=FILE; may be given again."),
    ] = None,
    downsizing_mp: Annotated[
        float | None, typer.Option(help="Megapixels that the pictures given are shrunk to.")
    ] = None,
    offloading: Annotated[
        bool | None,
        typer.Option(help="Be refused unless the model keeps weights off the device, or on it."),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            help="Server to ask. (default: this machine's, if it answers at DARKROOM_PORT or 8000)"
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(help="The server's key for you; a variable, DARKROOM_API_KEY, shows less."),
    ] = None,
    models: Models = None,
) -> None:
    """Make pictures: on a running server, or here when none answers."""
    from api.cli.generate import run
    from api.cli.wish import Wish

    with speaking(interrupted="cancelled"):
        wish = Wish.read(
            prompt=prompt,
            model=model,
            negative_prompt=negative,
            size=size,
            aspect_ratio=ratio,
            resolution=resolution,
            quality=quality,
            count=count,
            seed=seed,
            num_inference_steps=steps,
            guidance_scale=guidance,
            profile=profile,
            loras=lora or (),
            lora_strength=lora_strength,
            lora_rank=lora_rank,
            sampler=sampler,
            mode=mode,
            images=image or (),
            mask=mask,
            strength=strength,
            mask_blur=mask_blur,
            references=reference or (),
            downsizing_mp=downsizing_mp,
            offloading=offloading,
        )
        run(
            wish,
            output,
            server=server,
            key=secret_of(key),
            local_settings=lambda: settings_of(models=models),
        )


@app.command()
def gallery(
    folder: Annotated[
        Path, typer.Option("--out", help="Folder for the sheets; the page lies beside it.")
    ] = Path("gallery"),
    only: Annotated[
        list[str] | None, typer.Option(help="Draw this sheet alone; may be given again.")
    ] = None,
    models: Models = None,
) -> None:
    """Show what each field of a request does, drawn by the built-in models."""
    from api.cli.gallery import run

    with speaking(interrupted="cancelled"):
        run(folder, only or (), settings_of(models=models))


def main() -> None:
    """The `darkroom` command."""
    # or it tells every start which image processors would be faster with torchvision
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # CPU threads that wait for one another asleep: where others want the cores too, two that
    # spin took over ten minutes for what takes one thread one
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _leave(_status_of(app))


def _status_of(command: Callable[[], object]) -> int:
    """What a command ends with, its last word said."""
    try:
        command()
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def _leave(status: int) -> NoReturn:
    """End the process now: the interpreter would wait for every thread that a library left.

    One that compiled kept a server for minutes after its last word, Ctrl-C or not. What is to last
    is on disk by now.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
