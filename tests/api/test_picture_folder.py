"""What of a folder may be read by path, and what of everything else may not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from api.errors import BadRequest, TooLarge
from api.picture_folder import PictureFolder
from api.settings import SettingsError, load_settings

MOST = 100


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with pictures, beside one that nobody may see."""
    (tmp_path / "pictures" / "cats").mkdir(parents=True)
    (tmp_path / "pictures" / "cats" / "1.png").write_bytes(b"cat")
    (tmp_path / "pictures" / "large.png").write_bytes(b"x" * (MOST + 1))
    (tmp_path / "pictures" / "full.png").write_bytes(b"x" * MOST)
    (tmp_path / "pictures-of-others").mkdir()
    (tmp_path / "pictures-of-others" / "secret.png").write_bytes(b"secret")
    (tmp_path / "pictures" / "again.png").symlink_to("cats/1.png")
    (tmp_path / "pictures" / "out.png").symlink_to(tmp_path / "pictures-of-others" / "secret.png")
    (tmp_path / "pictures" / "others").symlink_to(tmp_path / "pictures-of-others")
    (tmp_path / "pictures" / "circle").symlink_to("circle")
    os.mkfifo(tmp_path / "pictures" / "pipe")
    return tmp_path / "pictures"


@pytest.fixture
def folder(root: Path) -> PictureFolder:
    return PictureFolder(root, max_bytes=MOST)


@pytest.mark.parametrize("path", ["cats/1.png", "./cats//1.png", "cats/../cats/1.png", "again.png"])
def test_what_lies_below_is_read(folder: PictureFolder, path: str) -> None:
    assert folder.read(path, field="image_path") == b"cat"


@pytest.mark.parametrize(
    "path",
    [
        *("../pictures-of-others/secret.png", "cats/../../pictures-of-others/secret.png"),
        *("out.png", "others/secret.png", "circle", "pipe", "cats", "..", ".", ""),
        *("none.png", "cats/1.png/x", "a\0b", "x" * 300, "x/" * 3000),
    ],
)
def test_all_else_is_told_apart_in_no_way(folder: PictureFolder, path: str) -> None:
    with pytest.raises(BadRequest) as caught:
        folder.read(path, field="image_path")
    assert str(caught.value) == (
        "image_path: there is no such picture in the server's picture folder"
    )
    assert caught.value.field == "image_path"


@pytest.mark.parametrize("path", ["{root}/cats/1.png", "/etc/passwd", "s3://a/b", "file:///a"])
def test_a_path_is_relative(folder: PictureFolder, root: Path, path: str) -> None:
    with pytest.raises(BadRequest, match="relative") as caught:
        folder.read(path.format(root=root), field="image_path")
    assert str(root) not in str(caught.value)


def test_a_folder_may_be_named_by_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)

    folder = PictureFolder(tmp_path / "link", max_bytes=MOST)

    assert folder.read("cats/1.png", field="image_path") == b"cat"


def test_a_file_may_be_as_large_as_any_picture(folder: PictureFolder) -> None:
    assert len(folder.read("full.png", field="image_path")) == MOST
    with pytest.raises(TooLarge, match="image_path has more than 100 bytes"):
        folder.read("large.png", field="image_path")


def test_without_a_folder_no_path_is_taken() -> None:
    with pytest.raises(BadRequest, match="DARKROOM_IMAGE_PATH_FOLDER"):
        PictureFolder(None, max_bytes=MOST).read("cats/1.png", field="image_path")


def test_a_folder_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="DARKROOM_IMAGE_PATH_FOLDER"):
        load_settings(image_path_folder=tmp_path / "none")
    assert load_settings(image_path_folder=tmp_path).image_path_folder == tmp_path
