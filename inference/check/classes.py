"""Which classes a checkpoint names, against those that its entry's family is served by."""

from __future__ import annotations

from collections.abc import Iterator

from inference.check.blueprint import Blueprint
from inference.errors import ModelFailed
from inference.misfits import check_class, pipeline_class
from inference.model_spec import ModelSpec


def misses(spec: ModelSpec, plan: Blueprint) -> Iterator[str]:
    """What the pipelines of the modes need, and the checkpoint does not name."""
    for kind in dict.fromkeys(pipeline_class(spec, mode) for mode in spec.modes):
        modules, _ = kind._get_signature_keys(kind)
        left_out = {*kind._optional_components, *spec.rules.processors}
        missing = sorted(set(modules) - set(plan.index) - left_out)
        if missing:
            yield f"{kind.__name__} needs {', '.join(missing)}, which it has not"
    if plan.part(*spec.rules.denoisers) is None:
        yield f"it has none of {', '.join(spec.rules.denoisers)}"
    try:
        check_class(spec, plan.index)
    except ModelFailed as error:
        yield str(error)


def unlike(spec: ModelSpec, plan: Blueprint) -> str:
    """What to know of a checkpoint whose own pipeline is none of its family's; else nothing."""
    rules = spec.rules
    usual = [route.pipeline for route in rules.routes.values()]
    guided = [route.pipeline for route in rules.controls.values()]
    known = dict.fromkeys((*spec.pipelines.values(), *usual, *guided))
    own = plan.index.get("_class_name")
    if rules.any_pipeline or own in known:
        return ""
    return (
        f"its model_index.json is of {own}, and family {spec.family!r} is served by "
        f"{', '.join(known)}: it may have been made for something else"
    )
