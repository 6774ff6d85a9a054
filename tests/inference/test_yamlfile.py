"""Files that cannot be used are told by file, line and what to change; never by a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from inference.errors import CatalogError
from inference.yamlfile import explain, read_yaml


class Lamp(BaseModel):
    model_config = ConfigDict(extra="forbid")
    watts: int
    colour: str = "white"


class Room(BaseModel):
    model_config = ConfigDict(extra="forbid")
    lamps: dict[str, Lamp] = {}
    chairs: list[Lamp] = []


def write(folder: Path, text: str) -> Path:
    path = folder / "room.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def complaint(folder: Path, text: str) -> str:
    document = read_yaml(write(folder, text))
    with pytest.raises(ValidationError) as wrong:
        Room.model_validate(document.values)
    return explain(wrong.value, document, Room).replace(f"{folder}/", "")


def test_a_misspelt_key_gets_its_line_and_the_nearest_key(tmp_path: Path) -> None:
    said = complaint(tmp_path, "lamps:\n  desk:\n    watts: 5\n    color: red\n")
    assert said == "room.yaml:4: lamps.desk.color: unknown key; did you mean 'colour'?"


def test_a_key_like_no_other_gets_the_list(tmp_path: Path) -> None:
    said = complaint(tmp_path, "lamps:\n  desk:\n    watts: 5\n    xyzzy: red\n")
    assert said == "room.yaml:4: lamps.desk.xyzzy: unknown key; known are: watts, colour"


def test_a_missing_key_is_told_where_it_is_missed(tmp_path: Path) -> None:
    assert complaint(tmp_path, "\n\nlamps:\n  desk: {}\n") == (
        "room.yaml:4: lamps.desk: needs 'watts'"
    )


def test_every_problem_gets_its_line_in_the_files_order(tmp_path: Path) -> None:
    said = complaint(tmp_path, "chairs:\n  - watts: x\n  - watts: y\nlamp: {}\n").splitlines()
    assert [line.split(":")[1] for line in said] == ["2", "3", "4"]
    assert said[1].startswith("room.yaml:3: chairs.1.watts: ")
    assert said[2].endswith("unknown key; did you mean 'lamps'?")


def test_a_file_of_the_wrong_form_is_told_as_a_whole(tmp_path: Path) -> None:
    for text in ("", "5", "- a"):
        assert complaint(tmp_path, text) == "room.yaml:1: file: Input should be a valid dictionary"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: [1\nb: 2\n", 2, "expected ',' or ']'"),
        ("a: 1\n\tb: 2\n", 2, "cannot start any token"),
        ("a: 1\nb: 2\na: 3\n", 3, "key 'a' stands here twice"),
        ("m:\n  a: {x: 1, x: 2}\n", 2, "key 'x' stands here twice"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "could not determine a constructor"),
        ("{[1]: 2}: 3\n", 1, "unhashable"),
        ("when: 2026-13-45\n", 1, "month must be"),
        ("a: \x07\n", 1, "special characters"),
        ("[" * 5000, 1, "not YAML"),
        ("a: &a\n  b: *a\n", 1, "what is anchored here holds itself"),
        ("a: 1\nb: &b [1, [2, *b]]\n", 2, "what is anchored here holds itself"),
        ("a: &a {x: {? *a : 1}}\n", 1, "what is anchored here holds itself"),
    ],
)
def test_what_is_no_yaml_is_refused_with_its_line(
    tmp_path: Path, text: str, line: int, said: str
) -> None:
    with pytest.raises(CatalogError) as refused:
        read_yaml(write(tmp_path, text))
    assert str(refused.value).startswith(f"{tmp_path}/room.yaml:{line}: ")
    assert said in str(refused.value)


def test_a_merged_key_may_be_overridden(tmp_path: Path) -> None:
    text = "base: &base {watts: 5, colour: red}\ndesk: {<<: *base, colour: blue}\n"
    assert read_yaml(write(tmp_path, text)).values["desk"] == {"watts": 5, "colour": "blue"}


def test_what_is_meant_twice_is_no_circle(tmp_path: Path) -> None:
    text = "a: &a {x: [1]}\nb: [*a, *a, {c: *a}]\n"
    assert read_yaml(write(tmp_path, text)).values["b"][2]["c"] == {"x": [1]}


@pytest.mark.timeout(20)
def test_what_is_meant_twice_over_and_over_is_walked_once(tmp_path: Path) -> None:
    lines = [f"l{number}: &l{number} [*l{number - 1}, *l{number - 1}]" for number in range(1, 40)]
    assert len(read_yaml(write(tmp_path, "\n".join(["l0: &l0 [1]", *lines]))).values) == 40


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "room.yaml"
    path.write_bytes(b"a: \xff\xfe\n")
    with pytest.raises(CatalogError, match=r"room\.yaml:1: not YAML: "):
        read_yaml(path)


def test_what_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"none\.yaml: No such file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(CatalogError, match="Is a directory"):
        read_yaml(tmp_path)
