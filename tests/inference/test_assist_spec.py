"""What models.yaml may say of the assistants, and how it is told what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference.catalog import Catalog, load_catalog
from inference.errors import CatalogError

MODELS = "models:\n  paint: {family: flux, source: 'builtin:tiny-flux'}\n"


def catalog(tmp_path: Path, text: str) -> Catalog:
    path = tmp_path / "models.yaml"
    path.write_text(MODELS + text)
    return load_catalog(path)


def test_nobody_helps_unless_told(tmp_path: Path) -> None:
    read = catalog(tmp_path, "")
    assert (read.rater, read.enhancer, read.search, read.viewer) == (None,) * 4


def test_all_of_them_are_read(tmp_path: Path) -> None:
    read = catalog(
        tmp_path,
        """
rater: {classifier: some/one, nsfw_labels: porn, clip: folder, device: "cuda:1"}
enhancer: {endpoint: "http://[::1]:8080/v1/", model: m, api_key_env: KEY, timeout_seconds: 0.5}
search: {searxng: "https://searx.example/", results: 3}
viewer: {captioner: folder, revision: abc}
""",
    )
    assert read.rater is not None and read.rater.nsfw_labels == ("porn",)
    assert read.enhancer is not None and read.enhancer.endpoint == "http://[::1]:8080/v1"
    assert read.search is not None and read.search.searxng == "https://searx.example"
    assert read.viewer is not None and not read.viewer.reviews


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rater: {}", "rater: needs a classifier, a clip or both"),
        ("rater: {clip: a, nsfw_labels: [x]}", "nsfw_labels means nothing without classifier"),
        ("rater: {classifier: a, clip_revision: b}", "clip_revision means nothing without clip"),
        ("rater: {clip: a, device: tpu}", "rater.device: must be cpu, cuda or cuda:N"),
        ("rater: {clip: a, threshold: 2}", "rater.threshold"),
        ("rater: {classifier: a, nsfw_labels: []}", "rater.nsfw_labels"),
        ("rater: {classifer: a}", "rater.classifer: unknown key; did you mean 'classifier'?"),
        ("enhancer: {}", "just one of endpoint, folder, builtin, and has none"),
        ("enhancer: {folder: a, builtin: tiny-flux}", "and has folder and builtin"),
        ("enhancer: {builtin: sdxl}", "enhancer.builtin"),
        ("enhancer: {endpoint: 'http://a'}", "an endpoint needs the name of its model"),
        ("enhancer: {folder: a, model: b}", "model means nothing without endpoint"),
        ("enhancer: {endpoint: 'http://a', model: b, device: cpu}", "device means nothing"),
        ("enhancer: {endpoint: 'ftp://a', model: b}", "enhancer.endpoint: must be a base URL"),
        ("enhancer: {endpoint: 'http://u:p@a', model: b}", "must be a base URL"),
        ("enhancer: {endpoint: 'http://a/?key=1', model: b}", "must be a base URL"),
        ("enhancer: {builtin: tiny-flux, timeout_seconds: 60}", "enhancer.timeout_seconds"),
        ("search: {results: 5}", "search: needs 'searxng'"),
        ("search: {searxng: 'http://a', results: 0}", "search.results"),
        ("viewer: {captioner: a, endpoint: 'http://a', model: b}", "has endpoint and captioner"),
        ("viewer: {endpoint: 'http://a'}", "an endpoint needs the name of its model"),
        ("viewer: {captioner: a, api_key_env: KEY}", "api_key_env means nothing without"),
        ("viewer: {endpoint: 'http://a', model: b, api_key_env: 'a b'}", "viewer.api_key_env"),
    ],
)
def test_a_mistake_stops_the_start_and_is_told_with_its_line(
    tmp_path: Path, text: str, told: str
) -> None:
    with pytest.raises(CatalogError) as caught:
        catalog(tmp_path, text)
    assert told in str(caught.value)
    assert "models.yaml:3: " in str(caught.value)
