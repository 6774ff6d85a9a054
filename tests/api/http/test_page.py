"""The page at `/`, in a real browser where there is one."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from inference.errors import PipelineFailed
from tests.api.http.served import Served

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


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    """The page, opened; at the end nothing may have gone wrong or gone out."""
    requests: list[str] = []
    errors: list[str] = []
    page = browser.new_page()
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))
    page.add_init_script(
        "addEventListener('securitypolicyviolation', e => console.error('CSP', e.blockedURI))"
    )
    page.goto(served.url)
    expect(page.locator("#model")).to_have_value("tiny-flux")
    yield page
    page.close()
    outside = [url for url in requests if not url.startswith((served.url + "/", "data:"))]
    assert outside == []
    refusals = ("status of 400", "status of 429")
    assert [error for error in errors if not any(one in error for one in refusals)] == []


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
    page.get_by_label("Prompt").fill("a" * 2001)
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert")).to_have_text("prompt has more than 2000 characters")

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
    expect(page.get_by_label("Model")).to_have_text("tiny-flux — failed")


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
