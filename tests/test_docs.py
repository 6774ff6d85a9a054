"""The documents against the code: nothing undocumented, nothing that is not so."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from api.cli.commands import app
from api.settings import Settings
from inference.assistants.spec import EnhancerSpec, RaterSpec, SearchSpec, ViewerSpec
from inference.catalog import Alias, Catalog, load_catalog
from inference.model_spec import Defaults, Limits, ModelSpec, Quality
from inference.pipelines import FAMILIES
from inference.references.spec import MOST, WAYS, WORDS, ReferenceSpec, Way
from inference.samplers import SAMPLERS
from tests.api.http.served import serving

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = PAGES[0].read_text()
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in PAGES}
# Endings of files that hold text; the rest is pictures and weights.
TEXTUAL = {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".cuda", ".js", ".html", ".css", ""}


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    paths = [ROOT / line for line in listed.stdout.splitlines()]
    return [path for path in paths if path.is_file() and path.suffix in TEXTUAL]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def rows(text: str, heading: str) -> dict[str, str]:
    """The table under a heading's first cell, by the code words of each row's first cell."""
    table = re.search(rf"^\| {re.escape(heading)} \|.*?(?=^\s*$|\Z)", text, re.M | re.S)
    assert table is not None
    found = {}
    for line in table[0].splitlines()[2:]:
        first, second = line.split("|")[1:3]
        for name in re.findall(r"`([^`]+)`", first):
            found[name] = second.strip()
    return found


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented_with_its_default(name: str) -> None:
    told = rows(TEXTS["docs/settings.md"], "variable")[f"DARKROOM_{name.upper()}"]
    default = Settings.model_fields[name].default
    shown = f"{default:g}" if isinstance(default, float) else str(default)
    shown = ",".join(default) if isinstance(default, tuple) else shown
    assert told == ("" if default in (None, ()) else f"`{shown}`")


def test_no_setting_is_documented_that_is_none() -> None:
    told = rows(TEXTS["docs/settings.md"], "variable")
    assert set(told) == {f"DARKROOM_{name.upper()}" for name in Settings.model_fields}


@pytest.mark.parametrize(
    ("heading", "model"),
    [
        ("model key", ModelSpec),
        ("defaults key", Defaults),
        ("limits key", Limits),
        ("alias key", Alias),
    ],
)
def test_every_model_key_is_documented(heading: str, model: type[BaseModel]) -> None:
    text = TEXTS["docs/models.md"]
    assert set(rows(text, heading)) == set(model.model_fields) - {"name"}


ASSISTANTS: dict[str, type[BaseModel]] = {
    "rater": RaterSpec,
    "enhancer": EnhancerSpec,
    "search": SearchSpec,
    "viewer": ViewerSpec,
}


def test_every_key_of_models_yaml_is_a_model_a_name_or_an_assistant() -> None:
    assert set(Catalog.model_fields) == {"models", "aliases", *ASSISTANTS}


@pytest.mark.parametrize("key", ASSISTANTS)
def test_every_assistants_key_is_documented_with_its_default(key: str) -> None:
    told = rows(TEXTS["docs/assistants.md"], f"{key} key")
    model = ASSISTANTS[key]
    assert set(told) == set(model.model_fields)
    for name, field in model.model_fields.items():
        default = field.default
        if isinstance(default, tuple):
            default = f"[{', '.join(default)}]"
        shown = "" if default is None else "needed" if field.is_required() else f"`{default}`"
        assert told[name] == shown, name


def test_every_key_of_a_reference_is_documented_with_its_default() -> None:
    told = rows(TEXTS["docs/references.md"], "key of a reference")
    assert set(told) == set(ReferenceSpec.model_fields)
    for name, field in ReferenceSpec.model_fields.items():
        if isinstance(field.default, float) or name == "condition":
            shown = f"{field.default:g}" if name == "strength" else field.default
            assert told[name] == f"`{shown}`"


def test_every_way_is_documented_with_its_tags_and_families() -> None:
    told = TEXTS["docs/references.md"].partition("| `by` |")[2].partition("\n\n")[0]
    cells = [line.split("|")[1:-1] for line in told.splitlines() if line.startswith("| `")]
    table = {line[0].strip(" `"): line[1:] for line in cells}
    assert set(table) == set(Way)
    for way, (tags, families, most) in table.items():
        assert set(re.findall(r"`([\w-]+)`", tags)) == {
            t for t, ways in WAYS.items() if way in ways
        }
        able = {name for name, family in FAMILIES.items() if way in family.reference_ways}
        assert set(re.findall(r"`([\w-]+)`", families)) == (set() if way == "transfer" else able)
        assert most.strip() == str(MOST[way]) if way in MOST else "less its sources" in most


def test_every_wording_of_a_reference_is_documented() -> None:
    for _, words in WORDS:
        assert words.format(tag="style", number=2) in TEXTS["docs/references.md"]


def test_every_quality_key_and_family_is_documented() -> None:
    text = TEXTS["docs/models.md"]
    assert all(f"`{key}`" in text for key in Quality.model_fields)
    assert all(f"`{name}`" in text for name in FAMILIES)


def test_every_sampler_is_documented_and_no_other() -> None:
    assert set(rows(TEXTS["docs/models.md"], "sampler")) == set(SAMPLERS)


def test_every_family_is_told_as_it_is() -> None:
    """Its modes, how many source pictures it takes, and where its guidance goes."""
    table = TEXTS["docs/models.md"].partition("| family |")[2].partition("\n\n")[0]
    told = {
        line.split("`")[1]: [cell.strip() for cell in line.split("|")[2:-1]]
        for line in table.splitlines()
        if line.startswith("| `")
    }
    assert set(told) == set(FAMILIES)
    for name, family in FAMILIES.items():
        serves, sources, guidance, *_, unit, _ = told[name]
        assert family.any_pipeline or all(mode.value in serves for mode in family.routes)
        assert int(sources) == max(route.max_sources for route in family.routes.values())
        assert guidance == f"`{family.guidance_field}`"
        assert unit == f"{family.size_multiple} px"


def test_the_models_in_the_documents_are_valid(tmp_path: Path) -> None:
    examples = [one for text in TEXTS.values() for one in blocks(text, "yaml")]
    assert len(examples) >= 2
    for number, example in enumerate(examples):
        path = tmp_path / f"{number}.yaml"
        path.write_text(example)
        assert load_catalog(path).models


def commands() -> dict[str, Any]:
    """Every command by its name, those of a group as `group command`."""
    found = {}
    groups = [("", typer.main.get_command(app))]
    for prefix, group in groups:
        for name, command in group.commands.items():  # type: ignore[attr-defined]
            if "commands" in vars(command):
                groups.append((f"{prefix}{name} ", command))
            else:
                found[prefix + name] = command
    return found


def flags() -> list[tuple[str, str]]:
    return [
        (name, flag)
        for name, command in commands().items()
        for parameter in command.params
        for flag in parameter.opts
        if flag.startswith("-") and flag != "--help"
    ]


def test_every_command_is_documented_and_no_other() -> None:
    told = re.findall(r"^### `darkroom ([a-z ]+?)(?: [A-Z ]+)?`$", TEXTS["docs/settings.md"], re.M)
    assert sorted(told) == sorted(commands())


@pytest.mark.parametrize(("command", "flag"), flags())
def test_every_flag_is_documented(command: str, flag: str) -> None:
    section = TEXTS["docs/settings.md"].partition(f"### `darkroom {command}")[2]
    assert f"`{flag}`" in section.partition("\n### ")[0]


def test_every_make_target_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    for name, text in TEXTS.items():
        named = set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.M))
        assert named <= targets, name
    assert {"serve", "test"} <= set(re.findall(r"^make ([a-z]+)$", README, re.M))


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", TEXTS)
def test_links_within_the_repository_lead_somewhere(name: str) -> None:
    here = (ROOT / name).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (here / file).resolve() if file else ROOT / name
        assert path.exists(), target
        assert ROOT in (path, *path.parents), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
            assert anchor in map(slug, headings), target


def test_files_named_in_recipes_exist() -> None:
    for name in re.findall(r"`((?:inference|api|tests|docs)/[\w./]+)`", TEXTS["CONTRIBUTING.md"]):
        assert (ROOT / name).exists(), name


def test_every_folder_of_the_readme_exists() -> None:
    for name in rows(README, "folder"):
        assert (ROOT / name).is_dir(), name


def test_no_recipe_needs_more_than_five_files() -> None:
    recipes = re.split(r"^## Add ", TEXTS["CONTRIBUTING.md"], flags=re.M)[1:]
    assert len(recipes) == 3
    for recipe in recipes:
        assert len(re.findall(r"^\d\. ", recipe.partition("\n## ")[0], re.M)) <= 5


# Put together here, so that this file does not hold what it looks for.
FORBIDDEN = {
    "a path of one machine": r"(?<![\w.])/(?:home/\w|Users/\w|root/|opt/(?!darkroom)\w|work/)",
    "a registry's host": "|".join(
        re.escape(host + end)
        for host, end in (("pypi", ".org"), ("pythonhosted", ".org"), ("registry.npmjs", ".org"))
    ),
    "a leftover": r"\bTO" + r"DO\b|\bFIX" + r"ME\b|\bXX" + r"X\b",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds_what_must_not_be_in_it(what: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in tracked()
        if (match := re.search(FORBIDDEN[what], path.read_text(encoding="utf-8")))
    ]
    assert found == []


@pytest.mark.parametrize(("package", "part"), [("inference", "The engine"), ("api", "The service")])
def test_the_architecture_names_every_room_and_no_other(package: str, part: str) -> None:
    told = TEXTS["docs/architecture.md"].partition(f"\n## {part}\n")[2].partition("\n## ")[0]
    cells = [line.split("|") for line in told.splitlines() if line.startswith("| `")]
    first = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell[1])}
    named = first | {name for cell in cells for name in re.findall(r"`(\w+\.py)`", cell[2])}
    inside = [path for path in (ROOT / package).iterdir() if not path.name.startswith("_")]
    modules = {path.name for path in inside if path.suffix == ".py"}
    rooms = {f"{path.name}/" for path in inside if path.is_dir()}
    assert modules | rooms <= named and first <= modules | rooms


def test_what_must_not_be_in_a_file_would_be_found() -> None:
    planted = ["/home/" + "ann/x", "https://pypi" + ".org/simple", "# TO" + "DO: later"]
    for (_, pattern), text in zip(FORBIDDEN.items(), planted, strict=True):
        assert re.search(pattern, text)


CURLS = [
    block
    for text in (README, TEXTS["docs/clients.md"])
    for block in blocks(text, "sh")
    if block.startswith("curl")
]


@pytest.mark.parametrize("block", CURLS)
def test_the_curls_of_the_documents_work_pasted(block: str, tmp_path: Path) -> None:
    """In a shell, word for word but for the port."""
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    with serving(tmp_path / "data") as server:
        script = block.replace("http://127.0.0.1:8000", server.url)
        folder = tmp_path / "shell"
        folder.mkdir()
        shell = ["sh", "-euc", script.replace("curl -s", "curl -sS --fail")]
        ran = subprocess.run(shell, cwd=folder, capture_output=True, text=True, timeout=60)
        assert (ran.returncode, ran.stderr) == (0, "")
        for picture in folder.glob("*.png"):
            assert picture.read_bytes().startswith(b"\x89PNG")
        for reply in folder.glob("*.json"):
            assert reply.read_text().startswith("{")
