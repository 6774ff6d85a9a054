"""Options of speed and size as a client and an operator see them: asked for, got, and why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from api.cli.commands import app
from tests.api.http.served import Served, serving, until

MODELS = """
models:
  tiny-flux:
    {family: flux, source: "builtin:tiny-flux", modes: [generate], max_sequence_length: 24,
     guidance_field: true_cfg_scale, sizes: [128x128],
     attention: sage, quantization: bitsandbytes-4bit, vae: {tiling: true}}
"""


def options_of(served: Served) -> dict[str, Any]:
    (model,) = served.client.get("/darkroom/models").json()["models"]
    (device,) = served.client.get("/darkroom/devices").json()["devices"]
    (same,) = device["models"]
    assert model["options"] == same["options"]
    found: dict[str, Any] = model["options"]
    return found


def darkroom(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def test_what_is_asked_what_is_got_and_why_not_more(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(MODELS)
    listed = darkroom("models", "--models", str(file))
    assert "attention sage" in listed and "vae tiling" in listed
    with serving(tmp_path, is_scripted=False, models=file, devices="cpu") as served:
        until(lambda: served.client.get("/darkroom/devices").is_success)
        before = options_of(served)
        assert before["attention"] == {"requested": "sage", "effective": "", "reason": ""}
        said = darkroom("models", "load", "tiny-flux", "--server", served.url)
        needs = "needs sageattention: pip install sageattention"
        assert f"cpu: attention is native, not sage: {needs}" in said
        assert "cpu: quantization is off, not bitsandbytes-4bit: " in said
        assert "vae" not in said
        after = options_of(served)
        assert after["attention"] == {"requested": "sage", "effective": "native", "reason": needs}
        assert after["vae"] == {"requested": "tiling", "effective": "tiling", "reason": ""}
        assert after["dtype"] == {"requested": "auto", "effective": "float32", "reason": ""}
