"""The gallery: each field's sheet is drawn, shows what it says, and is in the documents."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from api.build import build_engine
from api.cli.commands import app
from api.cli.gallery import write_page
from api.cli.paper import GAP_PX, LINE_PX, Cell, contact_sheet
from api.cli.sheets import EDIT, SHEETS
from api.cli.studio import Studio
from api.settings import Settings
from inference.catalog import Catalog, load_catalog
from inference.errors import PipelineFailed, Unsupported
from tests.api.scripted import ScriptedEngine

WHITE = (255, 255, 255)


@pytest.fixture(scope="module")
def studio(root: Path) -> Iterator[Studio]:
    """A real engine with what ships."""
    catalog = load_catalog(root / "models.yaml")
    engine = build_engine(catalog, Settings())
    engine.start()
    yield Studio(catalog, engine)
    engine.close()


def drawn(studio: Studio, name: str) -> dict[str, Image.Image]:
    return {cell.label: cell.picture for cell in SHEETS[name].draw(studio)}


def apart(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).mean())


class TestWhatTheSheetsShow:
    def test_stripes_grow_with_the_strength_of_their_lora(self, studio: Studio) -> None:
        made = drawn(studio, "lora_strength")
        without = made.pop("strength 0")
        far = {float(label.split()[1]): apart(one, without) for label, one in made.items()}
        assert far[0.5] < far[1] < far[1.25]
        assert far[-0.5] < far[-1]

    def test_the_masks_edge_fades_further_and_the_source_stays_beyond(self, studio: Studio) -> None:
        made = drawn(studio, "mask_blur")
        source = np.asarray(made.pop("source"))
        del made["mask"]
        for label, one in made.items():
            blur = int(label.split()[1])
            changed = (np.asarray(one) != source).any(axis=(0, 2))
            assert not changed[: 64 - blur].any(), label
            assert changed[64 - blur : 64].mean() > 0.8 if blur else True, label

    def test_colours_come_from_the_reference_by_its_weight(self, studio: Studio) -> None:
        made = drawn(studio, "references")
        wanted = np.asarray(made.pop("palette of")).mean(axis=(0, 1))
        means = [np.asarray(one).mean(axis=(0, 1)) for one in made.values()]
        far = [float(np.abs(mean - wanted).sum()) for mean in means]
        assert far == sorted(far, reverse=True) and far[-1] < far[0] / 2

    def test_a_source_gives_the_picture_its_shape(self, studio: Studio) -> None:
        cells = SHEETS["image"].draw(studio)
        sizes = [cell.picture.size for cell in cells]
        assert sizes[::2] == sizes[1::2] and len(set(sizes)) == 3


class TestTheCommand:
    @pytest.fixture
    def engine(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ScriptedEngine:
        """Makes plain pictures at once, for commands in an empty folder; of each run a new one."""
        script = ScriptedEngine()

        def build(catalog: Catalog, settings: Settings) -> ScriptedEngine:
            fails = script.fails
            script.__init__()  # type: ignore[misc]
            script.fails = fails
            return script

        monkeypatch.setattr("api.build.build_engine", build)
        monkeypatch.setattr("api.cli.own_engine.configure_logging", lambda level: None)
        monkeypatch.chdir(tmp_path)
        return script

    def gallery(self, *arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, ["gallery", *arguments])
        assert result.exit_code == code, (result.output, result.exception)
        return result

    def test_it_draws_every_sheet_and_the_page(self, engine: ScriptedEngine, root: Path) -> None:
        said = self.gallery()
        can = [name for name in SHEETS if name in said.stdout]
        served = load_catalog(root / "models.yaml").models
        assert can == [name for name in SHEETS if name != "edit" or EDIT in served]
        page = Path("gallery.md").read_text()
        for name in can:
            assert f"![{name}](gallery/{name}.webp)" in page
            with Image.open(f"gallery/{name}.webp") as sheet:
                assert sheet.format == "WEBP" and sheet.width > 300
        assert ("edit: left out" in said.stderr) is (EDIT not in served)
        assert not engine.status().devices[0].alive

    def test_it_draws_what_is_asked_for(self, engine: ScriptedEngine) -> None:
        self.gallery("--out", "a/b", "--only", "seed", "--only", "strength")
        assert sorted(path.name for path in Path("a/b").iterdir()) == ["seed.webp", "strength.webp"]
        page = Path("a/b.md").read_text()
        assert "b/seed.webp" in page and "b/strength.webp" in page and "mask" not in page

    def test_what_cannot_be_drawn_is_told_and_goes(
        self, engine: ScriptedEngine, tmp_path: Path
    ) -> None:
        self.gallery("--only", "profile")
        entry = "{family: flux, source: 'builtin:tiny-flux', sizes: [128x128]}"
        (tmp_path / "few.yaml").write_text(f"models:\n  tiny-flux: {entry}\n")
        said = self.gallery("--only", "profile", "--models", "few.yaml")
        assert "profile: left out, 'tiny-flux' has no profile" in said.stderr
        assert not Path("gallery/profile.webp").exists()
        assert "profile" not in Path("gallery.md").read_text()

    def test_an_unknown_sheet_is_told(self, engine: ScriptedEngine) -> None:
        said = self.gallery("--only", "sede", code=2).stderr
        assert said.startswith("darkroom: no sheet 'sede'; there are: prompt, seed,")

    def test_a_picture_that_fails_stops_it(self, engine: ScriptedEngine) -> None:
        engine.fails = lambda job, index: PipelineFailed("the pipeline broke")
        assert "darkroom: the pipeline broke" in self.gallery("--only", "seed", code=1).stderr


def test_a_refusal_passes_through_the_studio(root: Path) -> None:
    studio = Studio(load_catalog(root / "models.yaml"), ScriptedEngine())
    with pytest.raises(Unsupported):
        studio.one(prompt="a", sampler="euler")


def test_the_documents_show_every_sheet(root: Path, tmp_path: Path) -> None:
    shown = root / "docs" / "gallery"
    drawn = {path.stem for path in shown.iterdir()}
    served = load_catalog(root / "models.yaml").models
    assert drawn == set(SHEETS) - ({"edit"} if EDIT not in served else set())
    assert sum(path.stat().st_size for path in shown.iterdir()) < 1_500_000
    shutil.copytree(shown, tmp_path / "gallery")
    write_page(tmp_path / "gallery")
    assert (tmp_path / "gallery.md").read_text() == (root / "docs" / "gallery.md").read_text()


class TestPaper:
    CELLS = (Cell("a", Image.new("RGB", (20, 30), "red")), Cell("b\nc", Image.new("L", (20, 10))))

    def test_pictures_lie_side_by_side_whole(self) -> None:
        sheet = contact_sheet(self.CELLS)
        assert sheet.size == (3 * GAP_PX + 40, 2 * GAP_PX + 30 + LINE_PX + 3)
        assert sheet.crop((8, 8, 28, 38)).getcolors() == [(600, (255, 0, 0))]
        assert sheet.crop((36, 8, 56, 18)).getcolors() == [(200, (0, 0, 0))]
        assert sheet.getpixel((0, 0)) == WHITE

    def test_a_row_that_is_full_is_followed_by_another(self) -> None:
        sheet = contact_sheet(self.CELLS * 2, across=2)
        one = contact_sheet(self.CELLS)
        assert sheet.size == (one.width, 2 * one.height - GAP_PX)

    def test_a_label_has_room(self) -> None:
        (cell, _) = self.CELLS
        wide = contact_sheet([Cell("a label that is wider than its picture", cell.picture)])
        right = wide.crop((40, 38, wide.width, wide.height)).convert("L")
        assert right.getextrema()[0] < 150
        assert wide.crop((wide.width - GAP_PX, 0, wide.width, wide.height)).getextrema()[0][0] > 150
