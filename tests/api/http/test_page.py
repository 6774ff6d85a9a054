"""The page at `/`, in a real browser where there is one."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from api.accounts import Scope
from inference.errors import PipelineFailed
from tests.api.http.served import Served, make_key, serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
HOSTILE = '<img src=x onerror="document.title=\'owned\'"> & "quoted" </script><script>'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine; Debian's package of that name will do")
    # a machine that does other things as well takes its time
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, url: str, *expected: str) -> Iterator[Page]:
    """The page; at the end nothing may have gone wrong but what is expected, nor gone out."""
    requests: list[str] = []
    errors: list[str] = []
    page = browser.new_page()
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))
    page.add_init_script(
        "addEventListener('securitypolicyviolation', e => console.error('CSP', e.blockedURI))"
    )
    page.goto(url)
    yield page
    page.close()
    outside = [one for one in requests if not one.startswith((url + "/", "data:"))]
    assert outside == []
    assert [error for error in errors if not any(one in error for one in expected)] == []


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    """The page of a server that asks for no key."""
    with opened(browser, served.url, "status of 400", "status of 429") as page:
        expect(page.locator("#model")).to_have_value("tiny-flux")
        yield page


def test_a_prompt_becomes_a_picture(page: Page, served: Served) -> None:
    served.script.gate.clear()
    page.get_by_label("Prompt").fill("a red circle")
    page.get_by_label("Prompt").press("Enter")
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    expect(page.get_by_role("button", name="Generate")).to_be_disabled()
    expect(page.get_by_role("status")).to_have_text(re.compile("step 0 of 2|starting"))

    served.script.gate.set()

    picture = page.get_by_role("img", name="a red circle")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [128, 128]
    expect(page.get_by_role("status")).to_contain_text("128×128 · seed ")
    expect(page.get_by_role("button", name="Generate")).to_be_enabled()
    expect(page.get_by_role("button", name="a red circle, seed")).to_have_count(1)


@pytest.mark.usefixtures("begins_when_watched")
def test_a_preview_shows_before_the_picture(page: Page, served: Served) -> None:
    served.script.gate.clear()
    page.evaluate(
        """() => {
            window.sources = [];
            const seen = new MutationObserver(() =>
                window.sources.push(picture.src.slice(0, 15)));
            const picture = document.getElementById('picture');
            seen.observe(picture, {attributes: true, attributeFilter: ['src']});
        }"""
    )
    page.get_by_label("Prompt").fill("a preview")
    page.get_by_role("button", name="Generate").click()
    # the stream is open, so that the preview that follows is seen
    expect(page.get_by_role("status")).to_have_text(re.compile("step 0 of 2|starting"))
    served.script.gate.set()
    expect(page.get_by_role("img", name="a preview")).to_be_visible()

    sources = page.evaluate("window.sources")

    assert sources[0] == "data:image/webp"
    assert sources[-1].startswith("http://127.0.0")


def test_events_that_break_off_are_asked_for_again(browser: Browser, served: Served) -> None:
    """Once before the first of them, once in their midst."""
    served.script.gate.clear()
    asked = 0

    def answer(route: Route) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            route.abort()
        elif asked == 2:
            body = 'event: queued\ndata: {"position": 3}\n\nevent: step\nda'
            route.fulfill(body=body, content_type="text/event-stream")
        else:
            route.continue_()

    with opened(browser, served.url, "net::ERR_FAILED") as page:
        expect(page.locator("#model")).to_have_value("tiny-flux")
        page.route("**/events", answer)
        page.get_by_label("Prompt").fill("a broken stream")
        page.get_by_role("button", name="Generate").click()
        expect(page.get_by_role("status")).to_have_text("connection lost, trying again")
        expect(page.get_by_role("status")).to_have_text(re.compile("step 0 of 2|starting"))
        served.script.gate.set()
        expect(page.get_by_role("img", name="a broken stream")).to_be_visible()
    assert asked == 3


def test_choices_reach_the_server(page: Page, served: Served) -> None:
    page.get_by_label("Shape").select_option("144x80")
    page.get_by_text("More").click()
    page.get_by_label("Steps").fill("5")
    page.get_by_label("Guidance").fill("2.5")
    page.get_by_label("Seed", exact=True).fill("77")
    page.get_by_label("Without").fill("blur")
    page.get_by_label("Prompt").fill("choices")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("img", name="choices")).to_be_visible()

    (told,) = served.client.get("/darkroom/generations?limit=1").json()["generations"]

    wanted: dict[str, Any] = {
        "prompt": "choices",
        "negative_prompt": "blur",
        "width": 144,
        "height": 80,
        "num_inference_steps": 5,
        "guidance_scale": 2.5,
        "seeds": [77],
    }
    assert told | wanted == told


def test_a_hostile_prompt_is_only_text(page: Page) -> None:
    page.get_by_label("Prompt").fill(HOSTILE)
    page.get_by_role("button", name="Generate").click()

    expect(page.get_by_role("img", name=HOSTILE)).to_be_visible()
    expect(page.locator("#strip small").filter(has_text=HOSTILE).first).to_be_visible()
    assert page.title() == "Darkroom"
    assert page.locator("#strip img").count() == page.locator("#strip li").count()
    assert page.locator("script").count() == 1


def test_an_error_is_shown_in_the_servers_words(page: Page, served: Served) -> None:
    page.get_by_label("Prompt").fill("a" * 32001)
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert")).to_have_text("prompt has more than 32000 characters")

    served.script.fails = lambda job, index: PipelineFailed("the pipeline broke")
    page.get_by_label("Prompt").fill("a failure")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert")).to_have_text("the pipeline broke")
    expect(page.get_by_role("button", name="Generate")).to_be_enabled()


@pytest.mark.parametrize("sending_ms", [0, 500], ids=["running", "still being sent"])
def test_a_generation_can_be_cancelled(page: Page, served: Served, sending_ms: int) -> None:
    served.script.gate.clear()
    page.evaluate(
        """pause => {
            const send = window.fetch;
            window.fetch = async (...asked) => {
                await new Promise(resolve => setTimeout(resolve, pause));
                return send(...asked);
            };
        }""",
        sending_ms,
    )
    page.get_by_label("Prompt").fill("never")
    page.get_by_role("button", name="Generate").click()
    page.get_by_role("button", name="Cancel").click()

    expect(page.get_by_role("status")).to_have_text("cancelled")
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
    (told,) = served.client.get("/darkroom/generations?limit=1").json()["generations"]
    assert (told["prompt"], told["state"]) == ("never", "cancelled")


def test_a_last_picture_can_be_seen_again_and_its_seed_used(page: Page, served: Served) -> None:
    made = served.make(prompt="seen before", seed=4242)
    page.reload()
    page.get_by_role("button", name="seen before, seed 4242").click()
    expect(page.get_by_role("img", name="seen before")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == f"{made['id']}-0.png"

    page.get_by_role("button", name="Use this seed").click()

    expect(page.get_by_label("Seed", exact=True)).to_have_value("4242")


def test_a_model_that_failed_tells_why(page: Page, served: Served) -> None:
    told = served.client.get("/darkroom/models").json()
    told["models"][0] |= {"state": "failed", "reason": "no such <b>file</b>"}
    page.route("**/darkroom/models", lambda route: route.fulfill(json=told))
    page.reload()

    expect(page.get_by_text("could not be loaded: no such <b>file</b>")).to_be_visible()
    expect(page.get_by_label("Model").locator("option").first).to_have_text("tiny-flux — failed")


# --- with a key


def new_key(folder: Path, account: str = "team", **fields: Any) -> str:
    """A key made on another thread: the browser's driver has a loop on this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(make_key, folder, account, **fields).result()


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str]]:
    """A server that asks for a key, and the key."""
    folder = tmp_path_factory.mktemp("keyed")
    key = new_key(folder)
    with serving(folder) as running:
        yield running, key


@pytest.fixture
def locked(browser: Browser, keyed: tuple[Served, str]) -> Iterator[Page]:
    """The page of that server."""
    with opened(browser, keyed[0].url, "status of 401", "status of 403") as page:
        expect(page.get_by_label("This server asks for a key")).to_be_focused()
        yield page
    keyed[0].script.gate.set()


def put_in(page: Page, key: str) -> None:
    page.get_by_label("This server asks for a key").fill(key)
    page.get_by_role("button", name="Use key").click()


def stored(page: Page) -> dict[str, Any]:
    """What the page keeps, by the place where it keeps it."""
    found: dict[str, Any] = page.evaluate(
        "() => ({session: {...sessionStorage}, local: {...localStorage}, cookie: document.cookie})"
    )
    return found


def test_a_key_is_asked_for_and_sent_with_everything(
    locked: Page, keyed: tuple[Served, str]
) -> None:
    served, key = keyed
    sent: list[tuple[str, str | None]] = []
    locked.on(
        "request",
        lambda request: sent.append((request.url, request.headers.get("authorization"))),
    )
    expect(locked.get_by_label("Prompt")).to_be_hidden()
    put_in(locked, f" {key}\n")
    expect(locked.locator("#model")).to_have_value("tiny-flux")
    expect(locked.get_by_label("This server asks for a key")).to_be_hidden()
    served.script.gate.clear()

    locked.get_by_label("Prompt").fill("with a key")
    locked.get_by_label("Prompt").press("Enter")
    expect(locked.get_by_role("status")).to_have_text(re.compile("step 0 of 2|starting"))
    served.script.gate.set()

    expect(locked.get_by_role("img", name="with a key")).to_be_visible()
    expect(locked.get_by_role("button", name="with a key, seed")).to_have_count(1)
    # the browser asks for the page's icon when it likes, and pictures need no key
    asked = [(url, given) for url, given in sent if url.startswith(f"{served.url}/darkroom/")]
    asked = [(url, given) for url, given in asked if "/darkroom/files/" not in url]
    assert {given for _, given in asked} == {f"Bearer {key}"}
    assert any(url.endswith("/events") for url, _ in asked)
    pictures = [given for url, given in sent if "/darkroom/files/" in url]
    assert set(pictures) == {None}, "a signed link needs no key"
    assert stored(locked) == {"session": {"darkroom-key": key}, "local": {}, "cookie": ""}
    assert key not in locked.url and key not in locked.content()


def test_a_key_outlives_a_reload_and_not_the_tab(
    locked: Page, keyed: tuple[Served, str], browser: Browser
) -> None:
    put_in(locked, keyed[1])
    expect(locked.locator("#model")).to_have_value("tiny-flux")
    locked.reload()
    expect(locked.locator("#model")).to_have_value("tiny-flux")

    with opened(browser, keyed[0].url, "status of 401") as another:
        expect(another.get_by_label("This server asks for a key")).to_be_visible()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("dk_nonsense", "this key is not known here, or was revoked"),
        ("é or so", "That is not a key."),
    ],
)
def test_a_wrong_key_is_told_and_another_may_be_put_in(
    locked: Page, keyed: tuple[Served, str], wrong: str, told: str
) -> None:
    put_in(locked, wrong)
    expect(locked.get_by_role("alert").filter(has_text=told)).to_be_visible()
    assert stored(locked)["session"] == {}

    put_in(locked, keyed[1])

    expect(locked.locator("#model")).to_have_value("tiny-flux")


def test_a_key_for_another_api_is_told(locked: Page, keyed: tuple[Served, str]) -> None:
    folder = keyed[0].services.settings.data_dir
    put_in(locked, new_key(folder, "other", dialect="modelmux"))
    told = "this key is for the paths of modelmux only"
    expect(locked.get_by_role("alert").filter(has_text=told)).to_be_visible()


def test_a_key_that_is_revoked_is_asked_for_again(locked: Page, keyed: tuple[Served, str]) -> None:
    served, _ = keyed
    scopes = frozenset(Scope)
    headers = {"x-api-key": new_key(served.services.settings.data_dir, "gone", scopes=scopes)}
    put_in(locked, headers["x-api-key"])
    expect(locked.locator("#model")).to_have_value("tiny-flux")
    own = served.client.get("/darkroom/account", headers=headers).json()["key"]["id"]
    served.client.delete(f"/darkroom/admin/keys/{own}", headers=headers)

    locked.get_by_label("Prompt").fill("too late")
    locked.get_by_role("button", name="Generate").click()

    expect(locked.get_by_label("This server asks for a key")).to_be_visible()
    assert stored(locked)["session"] == {}


def test_every_control_has_a_name(page: Page) -> None:
    page.get_by_text("More").click()
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('input, select, textarea, button, progress')]
            .filter(one => !(one.labels?.length || one.ariaLabel || one.textContent.trim()))
            .map(one => one.id)"""
    )
    assert unnamed == []


def test_the_page_allows_itself_nothing_from_elsewhere(client: httpx2.Client) -> None:
    reply = client.get("/")

    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "http:" not in policy
    assert "frame-ancestors 'none'" in policy
    links = re.findall(r'(?:src|href)="([^"]*)"', reply.text)
    assert len(links) == 4
    assert all(re.match("/[^/]", link) for link in links)
    for name in ("page.css", "page.js", "icon.svg"):
        assert client.get(f"/playground/{name}").status_code == 200
        assert f"/playground/{name}" in reply.text
    for name in ("page.html", "routes.py", "..%2froutes.py", "%2e%2e/routes.py"):
        assert client.get(f"/playground/{name}").status_code == 404
