"""Options of speed and size: what is asked for, what this machine has of it, and why not more."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.quantizers.gguf.utils import GGUFLinear
from pydantic import ValidationError
from safetensors.torch import save_file

from inference import coalesce, selftest, skeletons, steps
from inference.catalog import Catalog
from inference.events import ImageDone
from inference.job import ImageRole, InputImage, Job, Lora, Mode, ReferenceTag
from inference.loading import load_pipelines
from inference.loras.spec import LoraSpec
from inference.model_spec import ModelSpec
from inference.options import compiled, quantization
from inference.options import trial as options
from inference.options.compiled import Uncompiled, compiled_blocks
from inference.options.spec import ATTENTIONS, OptionStatus, VaeOptions, requested
from inference.pixels import Pictures
from inference.references.image_rows import ImageUse
from inference.residency import resident
from inference.residency.held import HeldParts
from inference.residency.placement import Weights, packed, tensors_of
from inference.status import Lane, ModelAction, ModelState, ModelStatus
from tests.inference.making import Bench, difference, job, plain


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One call to a forward, and a compiler that only records: the real one takes minutes."""
    monkeypatch.setattr(selftest, "MEASURED_SIZES", 1)
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    yield
    torch._dynamo.reset()
    torch.set_grad_enabled(True)


def with_options(catalog: Catalog, name: str = "flux", **asked: Any) -> Catalog:
    """That model alone, made to generate, with options as models.yaml has them."""
    values = catalog.models[name].model_dump(mode="json", exclude_unset=True)
    spec = ModelSpec.model_validate(values | {"modes": ["generate"]} | asked)
    return Catalog(models={name: spec})


def status_of(bench: Bench) -> ModelStatus:
    return bench.worker.status(True).models[0]


def made(catalog: Catalog, *jobs: Job, **settings: Any) -> Bench:
    """A worker that has finished the jobs."""
    bench = Bench(catalog, **settings)
    for one in jobs:
        bench.submit(one)
    bench.finish()
    return bench


def wanted(catalog: Catalog, name: str = "j", **changes: Any) -> Job:
    return job(name, next(iter(catalog.models)), **changes)


def gguf_file(path: Path, denoiser: torch.nn.Module) -> Path:
    """Its matrices in 8 bits, the rest as it is, as a file of llama.cpp's kind."""
    import gguf

    kind = gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(path, "flux")
    for name, weight in denoiser.state_dict().items():
        if weight.ndim == 2 and weight.shape[-1] % 32 == 0:
            writer.add_tensor(name, gguf.quants.quantize(weight.numpy(), kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def narrowed(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    gguf_file(file, skeletons.tiny_flux().transformer)
    return with_options(catalog, quantization={"kind": "gguf", "file": str(file)})


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"quantization": "int8"}, "torchao-int8"),
        ({"quantization": {"kind": "gguf"}}, "gguf needs a file"),
        ({"quantization": {"kind": "gguf", "file": "a.safetensors"}}, "gguf needs a file"),
        ({"quantization": {"kind": "gguf", "file": "a.gguf", "parts": ["x"]}}, "no parts"),
        ({"quantization": {"kind": "torchao-int8", "file": "a.gguf"}}, "has no file"),
        ({"quantization": {"kind": "torchao-int8", "parts": ["vae"]}}, "'vae' is no denoiser"),
        ({"attention": "flush"}, "must be one of native"),
        ({"compile": 1}, "compile"),
        ({"vae": {"tiling": "yes"}}, "tiling"),
        ({"vae": {"tiles": True}}, "tiles"),
        ({"cache": {"kind": "taylorseer", "threshold": 0.1}}, "taylorseer has no threshold"),
        ({"cache": {"kind": "first_block", "interval": 3}}, "first_block has no interval"),
        ({"cache": "first_block", "compile": True}, "cache and compile exclude one another"),
        (
            {
                "cache": "first_block",
                "references": {"pose": {"by": "controlnet", "source": "x"}},
            },
            "cache excludes references by controlnet: pose",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_in_the_file(
    catalog: Catalog, asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        with_options(catalog, **asked)


def test_attention_backends_are_those_of_diffusers() -> None:
    from diffusers.models.attention_dispatch import AttentionBackendName

    assert {*ATTENTIONS} < {one.value for one in AttentionBackendName}


def test_before_loading_only_what_is_asked_is_known(catalog: Catalog) -> None:
    asked = with_options(catalog, attention="sage", vae={"tiling": True, "slicing": True})
    told = status_of(Bench(asked)).options
    assert told == requested(asked.models["flux"])
    assert told["vae"] == OptionStatus(requested="tiling, slicing")
    assert {*told} == {"dtype", "attention", "vae"}


@pytest.mark.parametrize(
    ("asked", "reason", "effective"),
    [
        ({"quantization": "bitsandbytes-4bit"}, "needs an NVIDIA GPU", "off"),
        ({"attention": "sage"}, "needs sageattention: pip install sageattention", "native"),
        ({"attention": "_flash_3_hub"}, "needs kernels: pip install kernels", "native"),
        ({"attention": "flash_varlen"}, "needs flash-attn: pip install flash-attn", "native"),
        # these two are taken, and fail when they are used
        ({"attention": "_native_cudnn"}, "", "native"),
        ({"attention": "_native_efficient"}, "", "native"),
    ],
)
def test_what_this_machine_lacks_has_a_reason_and_the_model_serves_without(
    catalog: Catalog, asked: dict[str, Any], reason: str, effective: str
) -> None:
    served = with_options(catalog, **asked)
    bench = made(served, wanted(served))
    told = status_of(bench).options[next(iter(asked))]
    assert told.effective == effective and told.reason and reason in told.reason
    assert status_of(bench).state is ModelState.READY
    expected = plain(catalog.models["flux"], job())
    assert bench.seen.picture("j").tobytes() == expected.tobytes()


def test_a_missing_package_is_told_by_name(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, narrowed: Catalog
) -> None:
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    for kind, package in (("torchao-int8", "torchao"), ("torchao-float8", "torchao")):
        spec = with_options(catalog, quantization=kind).models["flux"]
        assert quantization.obstacle(spec, "cuda:0") == f"needs {package}: pip install {package}"
    bench = made(narrowed, wanted(narrowed))
    told = status_of(bench).options["quantization"]
    assert told == OptionStatus(
        requested="gguf", effective="off", reason="needs gguf: pip install gguf"
    )
    expected = plain(catalog.models["flux"], job())
    assert bench.seen.picture("j").tobytes() == expected.tobytes()


def test_an_attention_backend_is_the_models_own(catalog: Catalog) -> None:
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    asked = with_options(catalog, attention="_native_math")
    bench = made(asked, wanted(asked))
    told = status_of(bench).options["attention"]
    assert told == OptionStatus(requested="_native_math", effective="_native_math")
    assert Registry._active_backend == "native"
    model = bench.worker._residents.usable("flux")
    assert model is not None
    block = model.pipes[Mode.GENERATE].transformer.transformer_blocks[0]
    assert block.attn.processor._attention_backend == "_native_math"
    assert difference(bench.seen.picture("j"), plain(catalog.models["flux"], job())) <= 1


def test_an_option_that_the_self_test_fails_with_is_left_off(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its own trial went well: the model serves without."""
    run = resident.run_selftest

    def picky(model: Any, device: str) -> Any:
        backends = {one._attention_backend for one in options._processors(model.attached[0].module)}
        if backends != {None}:
            raise RuntimeError("not with that one")
        return run(model, device)

    monkeypatch.setattr(resident, "run_selftest", picky)
    bench = made(with_options(catalog, attention="_native_math"), job())
    told = status_of(bench).options["attention"]
    assert told.effective == "native" and "not with that one" in told.reason
    assert bench.seen.picture("j").tobytes() == plain(catalog.models["flux"], job()).tobytes()


def test_a_unet_takes_no_backend_and_says_so(catalog: Catalog) -> None:
    asked = with_options(catalog, "sdxl", attention="_native_math")
    bench = made(asked, wanted(asked))
    told = status_of(bench).options["attention"]
    assert told.effective == "native" and "takes a backend" in told.reason
    expected = plain(catalog.models["sdxl"], job(model="sdxl"))
    assert bench.seen.picture("j").tobytes() == expected.tobytes()


def test_the_dtype_that_is_computed_in_is_told(catalog: Catalog, narrowed: Catalog) -> None:
    served = with_options(catalog, dtype="bfloat16")
    told = OptionStatus(requested="bfloat16", effective="bfloat16")
    assert status_of(made(served, wanted(served))).options["dtype"] == told
    assert status_of(made(narrowed, wanted(narrowed))).options["dtype"].effective == "float32"


def test_narrowed_weights_serve_with_loras_and_in_company(
    catalog: Catalog, narrowed: Catalog, tmp_path: Path
) -> None:
    file = tmp_path / "paint.safetensors"
    paint(file)
    loras = {"paint": LoraSpec(source=str(file))}
    spec = narrowed.models["flux"].model_copy(update={"loras": loras})
    served = Catalog(models={"flux": spec})
    painted = (Lora(name="paint", strength=2.0),)
    jobs = [job("a", loras=painted), job("b", seeds=(2,))]
    together = made(served, *jobs)
    assert status_of(together).options["quantization"].effective == "gguf"
    assert status_of(together).lanes == {Mode.GENERATE: Lane.MERGE}
    for one in jobs:
        alone = made(served, one).seen.picture(one.id)
        assert difference(together.seen.picture(one.id), alone) <= 1
    wide = plain(catalog.models["flux"], jobs[1])
    assert 0 < difference(together.seen.picture("b"), wide) <= 8
    without = made(served, job("a")).seen.picture("a")
    assert difference(together.seen.picture("a"), without) > 1


def test_narrowed_weights_can_be_packed(narrowed: Catalog) -> None:
    pipe = load_pipelines(narrowed.models["flux"], "cpu")[Mode.GENERATE]
    layer = pipe.transformer.transformer_blocks[0].attn.to_q
    shown = torch.randn(2, layer.in_features)
    before = layer(shown)
    weights = Weights(pipe.transformer, "a", "cpu")
    weights._point_at(packed([one.data for one in tensors_of(pipe.transformer)], pin=False))
    assert torch.equal(layer(shown), before)


def test_weights_made_of_several_tensors_leave_and_come_back() -> None:
    torchao = pytest.importorskip("torchao.quantization")
    layer = torch.nn.Linear(64, 64, bias=False)
    torchao.quantize_(layer, torchao.Int8WeightOnlyConfig())
    shown = torch.randn(2, 64)
    before = layer(shown)
    weights = Weights(layer, "a", "meta")
    assert 64 * 64 < weights.size_bytes < 64 * 64 * 1.2
    weights.read(pin=True)
    for _ in range(2):
        weights.to_device()
        assert layer.weight.device.type == "meta" and layer.weight.qdata.device.type == "meta"
        weights.to_ram()
        assert torch.equal(layer(shown), before)


@pytest.mark.parametrize("kind", ["torchao-int8", "torchao-float8"])
def test_torchao_narrows_what_is_named_and_no_other_model_shares_it(
    catalog: Catalog, kind: str
) -> None:
    pytest.importorskip("torchao")
    parts = ["transformer", "text_encoder_2"]
    served = with_options(catalog, dtype="bfloat16", quantization={"kind": kind, "parts": parts})
    other = served.models["flux"].model_copy(update={"name": "other", "quantization": None})
    both = Catalog(models={**served.models, "other": other})
    bench = made(both, job("a"))
    bench.submit(job("b", "other"))
    bench.finish()
    told = status_of(bench).options["quantization"]
    words = f"{kind} of transformer, text_encoder_2"
    assert told == OptionStatus(requested=words, effective=words)
    narrow, wide = (bench.worker._residents.usable(name) for name in both.models)
    assert narrow is not None and wide is not None
    for part in parts:
        found = [getattr(one.pipes[Mode.GENERATE], part) for one in (narrow, wide)]
        assert [any(map(is_narrow, one.parameters())) for one in found] == [True, False]
    vaes = {id(one.pipes[Mode.GENERATE].vae) for one in (narrow, wide)}
    assert len(vaes) == 1
    assert 0 < difference(bench.seen.picture("a"), bench.seen.picture("b")) <= 32


def test_what_is_a_models_own_is_found_by_no_other(
    catalog: Catalog, folders: dict[str, Path]
) -> None:
    spec, places = catalog.models["flux"], [folders["flux"]]
    pipes = load_pipelines(spec, "cpu")
    held = HeldParts("cpu")
    kept = held.keep(pipes, places, torch.float32, ("transformer", "text_encoder_2"))
    assert kept and {*held.find(places, torch.float32, ())} == {"text_encoder", "vae"}


def test_narrowed_parts_are_expected_to_take_less(catalog: Catalog) -> None:
    parts = ["transformer", "text_encoder_2"]
    sizes = [
        status_of(Bench(with_options(catalog, dtype="float32", **asked))).weight_bytes
        for asked in (
            {},
            {"quantization": "torchao-int8"},
            {"quantization": {"kind": "bitsandbytes-4bit", "parts": parts}},
        )
    ]
    assert sizes[0] > sizes[1] > sizes[2] > 0


def test_a_gguf_file_is_expected_to_take_what_it_has(narrowed: Catalog) -> None:
    bench = Bench(narrowed)
    before = status_of(bench).weight_bytes
    bench.submit(job())
    bench.finish()
    assert before == pytest.approx(status_of(bench).weight_bytes, rel=0.02)


def is_narrow(weight: torch.Tensor) -> bool:
    return hasattr(weight, "__tensor_flatten__")


def test_narrowed_weights_that_cannot_make_a_picture_are_read_again_without(
    catalog: Catalog, narrowed: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = GGUFLinear.forward

    def broken(self: Any, shown: torch.Tensor) -> torch.Tensor:
        return forward(self, shown) * float("nan")

    monkeypatch.setattr(GGUFLinear, "forward", broken)
    bench = made(narrowed, wanted(narrowed))
    told = status_of(bench).options["quantization"]
    assert told.effective == "off" and "NaN" in told.reason
    expected = plain(catalog.models["flux"], job())
    assert bench.seen.picture("j").tobytes() == expected.tobytes()


def test_a_file_that_is_not_there_leaves_the_models_own(catalog: Catalog, tmp_path: Path) -> None:
    gone = {"kind": "gguf", "file": str(tmp_path / "gone.gguf")}
    bench = made(with_options(catalog, quantization=gone), job())
    assert "gone.gguf" in status_of(bench).options["quantization"].reason
    expected = plain(catalog.models["flux"], job())
    assert bench.seen.picture("j").tobytes() == expected.tobytes()


def test_a_step_cache_leaves_steps_out_and_makes_one_picture_at_a_time(catalog: Catalog) -> None:
    plainly = made(with_options(catalog), job(num_inference_steps=12))
    for kind in ("first_block", "taylorseer"):
        asked = {"kind": kind, **({"threshold": 0.9} if kind == "first_block" else {"interval": 4})}
        served = with_options(catalog, cache=asked)
        jobs = [job("j", num_inference_steps=12), job("k", seeds=(2,), num_inference_steps=7)]
        bench = made(served, *jobs)
        assert status_of(bench).options["cache"] == OptionStatus(requested=kind, effective=kind)
        assert status_of(bench).lanes == {Mode.GENERATE: Lane.EXCLUSIVE}
        assert difference(bench.seen.picture("j"), plainly.seen.picture("j")) > 0
        for one in jobs:
            alone = made(served, one).seen.picture(one.id)
            assert alone.tobytes() == bench.seen.picture(one.id).tobytes()


def test_a_denoiser_without_caches_says_so(catalog: Catalog) -> None:
    bench = made(with_options(catalog, "sdxl", cache="taylorseer"), job(model="sdxl"))
    told = status_of(bench).options["cache"]
    assert told.effective == "off" and told.reason
    expected = plain(catalog.models["sdxl"], job(model="sdxl"))
    assert bench.seen.picture("j").tobytes() == expected.tobytes()


def test_compiled_blocks_are_used_and_adapters_run_the_plain_code(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs: list[Any] = []
    ran: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)

        def run(*args: Any) -> Any:
            ran.append(1)
            return graph.forward(*args)

        return run

    monkeypatch.setattr(compiled, "BACKEND", backend)
    file = tmp_path / "paint.safetensors"
    paint(file)
    changed = {"loras": {"paint": {"source": str(file)}}}
    served = with_options(catalog, compile=True, **changed)
    bench = made(served, job("a"))
    told = status_of(bench).options["compile"]
    assert told == OptionStatus(requested="on", effective="on")
    assert status_of(bench).lanes == {Mode.GENERATE: Lane.MERGE}
    assert graphs and ran
    assert torch._dynamo.config.recompile_limit == compiled.MOST_GRAPHS
    assert difference(bench.seen.picture("a"), plain(catalog.models["flux"], job())) <= 1
    ran.clear()
    graphs.clear()
    painted = job("b", loras=(Lora(name="paint", strength=2.0),))
    bench.submit(painted)
    bench.finish()
    assert not ran, "compiled code does not see what a LoRA exchanges"
    expected = made(with_options(catalog, **changed), painted).seen.picture("b")
    assert difference(bench.seen.picture("b"), expected) <= 1
    bench.submit(job("c"))
    bench.finish()
    assert ran and not graphs, "a request had to wait for the compiler"


def test_pictures_of_other_models_go_on_while_one_is_compiled(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = threading.Event(), threading.Event()
    where: set[str] = set()

    def backend(graph: Any, inputs: Any) -> Any:
        where.add(threading.current_thread().name)
        begun.set()
        assert may_end.wait(30)
        return graph.forward

    monkeypatch.setattr(compiled, "BACKEND", backend)
    two = {**with_options(catalog, compile=True).models, "sdxl": catalog.models["sdxl"]}
    bench = Bench(Catalog(models=two))
    bench.submit(job("a", model="sdxl"))
    bench.finish()
    bench.submit(job("slow"))
    while not begun.is_set():
        bench.worker.tick()
    bench.submit(job("b", model="sdxl"))
    while not any(one.job_id == "b" for one in bench.seen.events if isinstance(one, ImageDone)):
        bench.worker.tick()
    assert not bench.seen.progress("slow") and not may_end.is_set()
    may_end.set()
    bench.finish()
    assert bench.seen.picture("a").tobytes() == bench.seen.picture("b").tobytes()
    assert status_of(bench).options["compile"].effective == "on"
    assert where == {"compile"}, "nothing was left to be compiled between the steps of others"
    bench.worker.command("flux", ModelAction.UNLOAD)
    while bench.worker.at_work:
        bench.worker.tick()
    bench.submit(job("again"))
    bench.finish()
    assert difference(bench.seen.picture("again"), bench.seen.picture("slow")) == 0
    assert where == {"compile"}, "a model that comes back is not compiled again"


def test_a_controlnet_works_on_narrowed_and_on_compiled_weights(
    catalog: Catalog, narrowed: Catalog, tmp_path: Path
) -> None:
    skeletons.tiny_controlnet(skeletons.tiny_flux()).save_pretrained(tmp_path)
    pose = {"pose": {"by": "controlnet", "source": str(tmp_path)}}
    shown = InputImage(role=ImageRole.REFERENCE, key="source", tag=ReferenceTag.POSE, weight=1.0)
    asked = narrowed.models["flux"].model_dump(mode="json", exclude_unset=True)["quantization"]
    jobs = [job("a", images=(shown,)), job("b", images=(shown,), seeds=(2,)), job("c")]
    wide = made(with_options(catalog, references=pose), *jobs).seen
    for options_ in ({"quantization": asked}, {"compile": True}):
        bench = made(with_options(catalog, references=pose, **options_), *jobs)
        assert status_of(bench).options[next(iter(options_))].reason == ""
        for one in jobs:
            assert difference(bench.seen.picture(one.id), wide.picture(one.id)) <= 8
        assert difference(bench.seen.picture("a"), bench.seen.picture("c")) > 0


def test_an_ip_adapter_runs_the_plain_code_of_all_blocks() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    module[0].compile(backend="eager")
    (block,) = compiled_blocks(module)
    rows = Uncompiled(module, ImageUse)
    with rows.during([None, None], [1, 1]):
        assert compiled_blocks(module) == [block]
    with pytest.raises(ValueError), rows.during([None, object()], [1, 1]):
        assert not compiled_blocks(module)
        raise ValueError
    assert compiled_blocks(module) == [block]


def paint(file: Path) -> None:
    """A LoRA on one layer of the tiny Flux that changes much."""
    layer = "transformer.transformer_blocks.0.attn.to_q"
    width = skeletons.tiny_flux().transformer.transformer_blocks[0].attn.to_q.in_features
    dice = torch.Generator().manual_seed(3)
    pair = {"A": torch.randn(4, width, generator=dice), "B": torch.randn(width, 4, generator=dice)}
    save_file({f"{layer}.lora_{half}.weight": pair[half] for half in pair}, file)


def test_what_cannot_be_compiled_runs_plainly(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backend(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(compiled, "BACKEND", backend)
    bench = made(with_options(catalog, compile=True), job())
    told = status_of(bench).options["compile"]
    assert told.effective == "off" and "no such instruction" in told.reason
    assert bench.seen.picture("j").tobytes() == plain(catalog.models["flux"], job()).tobytes()


def test_without_a_compiler_it_says_what_to_install(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "BACKEND", "inductor")
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    bench = made(with_options(catalog, compile=True), job())
    assert status_of(bench).options["compile"].reason == "needs a C++ compiler: install g++"
    assert bench.seen.picture("j")


def test_what_is_compiled_is_kept_where_the_settings_say(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "elsewhere")
    made(with_options(catalog, compile=True), job(), compiled_folder=tmp_path)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)


def test_tiles_and_slices_are_one_models_own_though_the_vae_is_shared(catalog: Catalog) -> None:
    served = with_options(catalog, vae={"tiling": True, "slicing": True}).models["flux"]
    other = served.model_copy(update={"name": "other", "vae": VaeOptions()})
    both = Catalog(models={"flux": served, "other": other})
    size = {"width": 128, "height": 128}
    bench = made(both, job("a", **size), job("b", "other", **size))
    told = status_of(bench).options["vae"]
    assert told == OptionStatus(requested="tiling, slicing", effective="tiling, slicing")
    assert difference(bench.seen.picture("a"), bench.seen.picture("b")) > 0
    expected = plain(other, job("b", "other", **size))
    assert bench.seen.picture("b").tobytes() == expected.tobytes()
    pipe = load_pipelines(served, "cpu")[Mode.GENERATE]
    pipe.vae.enable_tiling()
    noise = torch.Generator("cpu").manual_seed(1)
    call = served.rules.routes[Mode.GENERATE].arguments(job("a", **size), served, Pictures())
    assert bench.seen.picture("a").tobytes() == pipe(**call, generator=noise).images[0].tobytes()


def test_sliced_pictures_are_decoded_one_at_a_time(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: dict[bool, list[int]] = {}
    for slicing in (False, True):
        seen = rows.setdefault(slicing, [])

        def counted(calls: Any, seen: list[int] = seen) -> Any:
            if type(calls[0].target.module).__name__ == "Decoder":
                seen.append(len(calls))
            return coalesce.forward(calls)

        monkeypatch.setattr(steps, "forward", counted)
        monkeypatch.setattr(selftest, "best_rows", lambda costs: 4)
        bench = made(with_options(catalog, vae={"slicing": slicing}), job(seeds=(1, 2, 3, 4)))
        assert bench.seen.picture("j", 3)
    assert max(rows[False]) > 1 and rows[True] == [1, 1, 1, 1]


def test_options_outlive_a_model_that_leaves_and_are_not_tried_again(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = with_options(catalog, attention="_native_math", cache="taylorseer")
    bench = made(asked, job("a"))
    bench.worker._residents._all["flux"].drop([])
    assert bench.worker._residents.usable("flux") is None
    tried: list[Any] = []
    monkeypatch.setattr(options, "make_picture", lambda *args: tried.append(args))
    bench.submit(job("b"))
    bench.finish()
    assert not tried
    assert bench.seen.picture("a").tobytes() == bench.seen.picture("b").tobytes()
    assert status_of(bench).options["cache"].effective == "taylorseer"
