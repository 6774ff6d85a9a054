"""`darkroom keys`, `darkroom accounts` and commands that send a key."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from api.cli.commands import app
from api.keys import hash_of, is_well_formed
from tests.api.http.served import Served, make_key, serving, until
from tests.api.scripted import ScriptedEngine


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every command runs in an empty folder, where ./data is not there yet."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that asks for keys."""
    data_dir = tmp_path_factory.mktemp("data")
    make_key(data_dir, "first")
    with serving(data_dir) as running:
        yield running


def darkroom(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def cells(table: str) -> list[list[str]]:
    return [re.split(r"  +", line) for line in table.splitlines()]


class TestKeys:
    def test_a_key_is_alone_on_stdout(self) -> None:
        made = darkroom("keys", "create", "team")
        text = made.stdout.removesuffix("\n")
        assert is_well_formed(text)
        (row,) = cells(darkroom("keys", "list").stdout)[1:]
        told, where = made.stderr.splitlines()
        assert told.startswith("in a new data folder: ") and told.endswith("/data")
        assert where.startswith(f"key {row[0]} of account team; ")
        assert "new data folder" not in darkroom("keys", "create", "team").stderr
        assert row[1:6] == ["team", "-", "use", "-", "-"]

    def test_every_flag_is_kept(self) -> None:
        flags = "--label=front-desk --scope=use --scope=admin --dialect=modelmux --rate=60"
        flags += " --concurrent=4 --spend-limit=500 --spend-period=day --credits=1000"
        text = darkroom("keys", "create", "team", *flags.split()).stdout.strip()
        listed = darkroom("keys", "list").stdout
        (row,) = cells(listed)[1:]
        limits = "60/min, 4 at once, 500 credits/day"
        assert row[1:6] == ["team", "front-desk", "admin+use", "modelmux", limits]
        assert row[7] == "-"
        assert text not in listed and hash_of(text) not in listed
        assert ["balance", "1000"] in cells(darkroom("accounts", "show", "team").stdout)

    def test_a_long_table_is_not_cut(self) -> None:
        darkroom("keys", "create", "a" * 64, "--label", "b" * 64)
        line = darkroom("keys", "list").stdout.splitlines()[1]
        assert "a" * 64 in line and "b" * 64 in line and line.endswith("-")

    def test_a_revoked_key_is_listed_as_such(self) -> None:
        darkroom("keys", "create", "team")
        id = cells(darkroom("keys", "list").stdout)[1][0]
        said = darkroom("keys", "revoke", id).stdout
        assert re.fullmatch(rf"{id} of team is revoked since 20\S+Z\n", said)
        assert cells(darkroom("keys", "list").stdout)[1][-1].endswith("Z")
        assert darkroom("keys", "revoke", id).stdout == said

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("create", "Team"), "begin with a letter or digit (the account's name)"),
            (("create", "team", "--dialect", "x"), "'x' is none of: darkroom, apimodels, eigen"),
            (
                ("create", "team", "--scope", "root"),
                "'root' is none of: use, admin, metrics (--scope)",
            ),
            (("create", "team", "--spend-period", "week"), "day, month (--spend-period)"),
            (("create", "team", "--rate", 0), "between 1 and 1000000000 (--rate)"),
            (("create", "team", "--concurrent", 0), "(--concurrent)"),
            (("create", "team", "--spend-limit", -1), "(--spend-limit)"),
            (("create", "team", "--credits", -1), "credits must not be negative (--credits)"),
            (("create", "team", "--label", "x" * 65), "(--label)"),
            (("create", "team", "--data-dir", "/proc/none"), "/proc/none cannot be used"),
            (("list", "--data-dir", "typo"), "typo holds no database of a server (--data-dir)"),
            (("revoke", "none", "--data-dir", "typo"), "(--data-dir)"),
        ],
    )
    def test_a_fault_is_one_line(self, arguments: tuple[object, ...], said: str) -> None:
        result = darkroom("keys", *arguments, code=2)
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert line.startswith("darkroom: ")
        assert said in line

    def test_only_a_first_key_makes_a_data_folder(self, folder: Path) -> None:
        darkroom("keys", "list", "--data-dir", "typo", code=2)
        assert not (folder / "typo").exists()
        darkroom("keys", "create", "team")
        assert "there is no such key" in darkroom("keys", "revoke", "none", code=2).stderr

    def test_a_database_that_is_too_new_is_told(self, folder: Path) -> None:
        darkroom("keys", "create", "team")
        with sqlite3.connect(folder / "data" / "darkroom.db") as connection:
            connection.execute("UPDATE alembic_version SET version_num = 'later'")
        connection.close()
        (line,) = darkroom("keys", "list", code=2).stderr.splitlines()
        assert "written by a newer Darkroom" in line

    def test_a_locked_database_is_a_failure(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("api.store.sqlite.BUSY_SECONDS", 0)
        darkroom("keys", "create", "team")
        other = sqlite3.connect(folder / "data" / "darkroom.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        # what is migrated already needs no writing first
        monkeypatch.setattr("api.store.sqlite.migrate_sqlite", lambda path: None)
        (line,) = darkroom("keys", "create", "team", code=1).stderr.splitlines()
        other.close()
        assert "the database cannot be used now" in line

    def test_the_folder_is_private(self, folder: Path) -> None:
        darkroom("keys", "create", "team")
        assert (folder / "data").stat().st_mode & 0o777 == 0o700


class TestAccounts:
    def test_credits_are_given_and_taken(self) -> None:
        darkroom("keys", "create", "team", "--credits", 10)
        told = cells(darkroom("accounts", "credit", "team", -4, "--note", "a mistake").stdout)
        assert told[:4] == [
            ["account", "team"],
            ["metered", "yes"],
            ["balance", "6"],
            ["held", "0"],
        ]
        shown = darkroom("accounts", "show", "team").stdout
        lines = [row[2:] for row in cells(shown)[7:]]
        assert lines == [
            ["grant", "-4", "+0", "-", "-", "a mistake"],
            ["grant", "+10", "+0", "-", "-", "with a new key"],
        ]
        rows = cells(darkroom("accounts", "list").stdout)
        assert rows[1:] == [["(no key)", "no", "0", "0"], ["team", "yes", "6", "0"]]

    def test_the_meter_comes_off(self) -> None:
        darkroom("keys", "create", "team", "--credits", 10)
        told = cells(darkroom("accounts", "unmeter", "team").stdout)
        assert told[1:3] == [["metered", "no"], ["balance", "10"]]

    def test_the_account_without_a_name_is_taken_as_it_is_shown(self) -> None:
        darkroom("keys", "create", "team")
        assert "(no key)" in darkroom("accounts", "list").stdout
        shown = darkroom("accounts", "secret", "(no key)").stdout
        assert shown == darkroom("accounts", "secret", "").stdout
        assert shown.startswith("whsec_")

    def test_a_secret_is_alone_on_stdout(self) -> None:
        darkroom("keys", "create", "team")
        first = darkroom("accounts", "secret", "team").stdout
        again = darkroom("accounts", "secret", "team").stdout
        rotated = darkroom("accounts", "secret", "team", "--rotate")
        assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=\n", first)
        assert first == again != rotated.stdout
        assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=\n", rotated.stdout)
        assert "24 hours" in rotated.stderr

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("show", "none"), "there is no such account"),
            (("unmeter", "none"), "there is no such account"),
            (("secret", "none"), "there is no such account"),
            (("secret", "none", "--rotate"), "there is no such account"),
            (("credit", "none", 5), "there is no such account"),
            (("credit", "team", -11), "the balance is 10, 11 cannot be taken from it"),
            (("credit", "team", 10**18), "(the amount)"),
            (("credit", "", 5), "(the account's name)"),
        ],
    )
    def test_a_fault_is_one_line(self, arguments: tuple[object, ...], said: str) -> None:
        darkroom("keys", "create", "team", "--credits", 10)
        (line,) = darkroom("accounts", *arguments, code=2).stderr.splitlines()
        assert line.startswith("darkroom: ")
        assert said in line


class TestBesideAServer:
    def test_a_running_server_notices_within_a_second(self, server: Served) -> None:
        where = ("--data-dir", server.services.settings.data_dir)
        text = darkroom("keys", "create", "team", "--credits", 5, *where).stdout.strip()
        headers = {"x-api-key": text}

        def own() -> int:
            return server.client.get("/darkroom/account", headers=headers).status_code

        assert own() == 200
        darkroom("accounts", "credit", "team", 7, *where)
        told = server.client.get("/darkroom/account", headers=headers).json()
        assert told["balance"] == 12
        darkroom("keys", "revoke", told["key"]["id"], *where)
        until(lambda: own() == 401, seconds=10)

    def test_pictures_are_made_with_the_flags_key(self, server: Served, folder: Path) -> None:
        text = make_key(server.services.settings.data_dir)
        flags = ("--server", server.url, "--seed", 7)
        darkroom("generate", "a", *flags, "--key", text)
        assert (folder / "out.png").exists()
        told = server.client.get("/darkroom/generations", headers={"x-api-key": text}).json()
        assert told["generations"][0]["seeds"] == [7]

    def test_pictures_are_made_with_the_variables_key(
        self, server: Served, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DARKROOM_API_KEY", make_key(server.services.settings.data_dir))
        darkroom("generate", "a", "--server", server.url)
        assert (folder / "out.png").exists()

    @pytest.mark.parametrize("is_default", [False, True])
    def test_a_server_that_wants_a_key_is_not_passed_over(
        self,
        server: Served,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        is_default: bool,
    ) -> None:
        """Least of all for an engine of its own."""
        monkeypatch.setattr("api.build.build_engine", lambda *_: ScriptedEngine())
        monkeypatch.setenv("DARKROOM_PORT", server.url.rpartition(":")[2])
        flags = () if is_default else ("--server", server.url)
        said = darkroom("generate", "a", *flags, code=2).stderr.splitlines()[-1]
        assert said.startswith(f"darkroom: {server.url}: send a key")
        assert said.endswith("(--key)")
        assert not list(folder.glob("*.png"))

    @pytest.mark.parametrize("key", ["dk_nonsense", "é", "a\nb"])
    def test_a_wrong_key_is_told_and_not_repeated(self, server: Served, key: str) -> None:
        said = darkroom("generate", "a", "--server", server.url, "--key", key, code=2)
        assert said.stderr.splitlines()[-1].endswith("(--key)")
        assert key not in said.stderr.splitlines()[-1]

    def test_want_of_credits_is_told(self, server: Served) -> None:
        text = make_key(server.services.settings.data_dir, "poor", credits=0)
        said = darkroom("generate", "a", "--server", server.url, "--key", text, code=2).stderr
        assert said.splitlines()[-1] == "darkroom: this costs 1 credits and the balance is 0"
