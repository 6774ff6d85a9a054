"""The models of one device: which are loaded, which failed and why."""

from __future__ import annotations

import time
from dataclasses import dataclass

import structlog

from inference.catalog import Catalog
from inference.coalesce import Rendezvous
from inference.errors import ModelFailed
from inference.job import Job
from inference.model import LoadedModel, load_model
from inference.prompts import PromptCache
from inference.selftest import run_selftest
from inference.settings import EngineSettings
from inference.status import ModelState, ModelStatus

log = structlog.get_logger()

# Before a model has been measured, any guess will do: it only orders requests that wait for it.
_GUESSED_STEP_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class _Failure:
    error: ModelFailed
    at: float


class Residents:
    """Loads a model when it is first asked for, tests it, and keeps it."""

    def __init__(
        self, device: str, catalog: Catalog, rendezvous: Rendezvous, settings: EngineSettings
    ) -> None:
        self._device = device
        self._catalog = catalog
        self._rendezvous = rendezvous
        self._settings = settings
        self._prompts = PromptCache(settings.prompt_cache_bytes)
        self._loaded: dict[str, LoadedModel] = {}
        self._failed: dict[str, _Failure] = {}
        self._status = {
            name: ModelStatus(name=name, state=ModelState.UNLOADED) for name in catalog.models
        }

    def preloads(self) -> list[str]:
        """Names of the models that are to be loaded at the start."""
        return [name for name, spec in self._catalog.models.items() if spec.preload]

    def get(self, name: str) -> LoadedModel:
        """The model, loaded if need be; raises ModelFailed, for a while without trying again."""
        if name in self._loaded:
            return self._loaded[name]
        failure = self._failed.get(name)
        if failure and time.monotonic() - failure.at < self._settings.retry_load_seconds:
            raise failure.error
        try:
            model = self._load(name)
        except ModelFailed as error:
            self._fail(name, error)
            raise
        self._loaded[name] = model
        return model

    def status(self) -> tuple[ModelStatus, ...]:
        """Every model of the catalog; values are replaced whole, so any thread may read."""
        return tuple(self._status.values())

    def work_seconds(self, job: Job) -> float:
        """About how long one picture of a job takes alone."""
        model = self._loaded.get(job.model)
        if model is None:
            return job.num_inference_steps * _GUESSED_STEP_SECONDS
        return model.work_seconds(job)

    def _load(self, name: str) -> LoadedModel:
        spec = self._catalog.models[name]
        self._status[name] = ModelStatus(name=name, state=ModelState.LOADING)
        begin = time.monotonic()
        model = load_model(
            spec,
            self._device,
            self._rendezvous,
            self._prompts,
            self._settings.preview_side_px,
            self._settings.lora_bytes,
        )
        try:
            run_selftest(model)
        except Exception as error:
            model.detach(self._rendezvous)
            raise ModelFailed(f"{name}: the self-test failed: {error}"[:500]) from error
        self._status[name] = ModelStatus(
            name=name,
            state=ModelState.READY,
            lanes=dict(model.lanes),
            dtype=model.dtype,
            token_budget=model.attached[0].budget_tokens,
        )
        log.info("model.loaded", model=name, seconds=round(time.monotonic() - begin, 2))
        return model

    def _fail(self, name: str, error: ModelFailed) -> None:
        self._failed[name] = _Failure(error, time.monotonic())
        self._status[name] = ModelStatus(name=name, state=ModelState.FAILED, reason=str(error))
        log.warning("model.failed", model=name, reason=str(error))
