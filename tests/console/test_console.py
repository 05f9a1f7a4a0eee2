"""The console in a real browser, on a server with keys."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys as Keyboard

from tests.console.browser import Browser
from tests.console.conftest import Keys
from tests.support.chat import Gate, Prompt

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGES = ("overview", "jobs", "batches", "workers", "models", "dead", "playground")


def sign_in(browser: Browser, key: str) -> None:
    browser.open("overview")
    browser.one("input[name=key]").send_keys(key, Keyboard.ENTER)
    browser.until(lambda: browser.all("nav a"), "the pages' links")


def call(url: str, key: str, path: str, body: dict[str, Any] | None = None, **headers: str) -> dict[str, Any]:
    """The API as any client sees it."""
    data = None if body is None else json.dumps(body).encode()
    wire = {"authorization": f"Bearer {key}", "content-type": "application/json", **headers}
    with urllib.request.urlopen(urllib.request.Request(url + path, data, wire), timeout=60) as answer:
        return json.load(answer)


def submitted(url: str, key: str, prompt: Prompt, **more: Any) -> str:
    return call(url, key, "/v1/chat/completions", prompt.body(background=True, **more))["id"]


async def test_a_key_is_asked_for_and_a_wrong_one_is_explained_beside_the_field(browser: Browser, keys: Keys) -> None:
    browser.open("jobs")
    browser.one("input[name=key]").send_keys("sk-ignite-wrong", Keyboard.ENTER)
    browser.shows("The API key is unknown or revoked.", ".field-error")

    browser.one("input[name=key]").send_keys(keys.operator, Keyboard.ENTER)
    browser.shows("Jobs", "h1")
    browser.press("Forget key")
    browser.until(lambda: browser.all("input[name=key]"), "the sign-in form")
    assert keys.operator not in browser.driver.page_source
    assert browser.driver.execute_script("return sessionStorage.length + localStorage.length") == 0


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)], ids=["light", "dark", "phone"])
async def test_every_page_is_accessible_and_fits(
    browser: Browser, keys: Keys, axe: str, width: int, dark: bool
) -> None:
    browser.resize(width, dark=dark)
    browser.open("overview")
    assert not browser.violations(axe)
    sign_in(browser, keys.operator)
    for page in PAGES:
        browser.open(page)
        browser.until(lambda: browser.all(".card, table, .empty, .notice"), f"the content of {page}")
        assert not browser.violations(axe), page
        assert browser.driver.execute_script("return document.documentElement.scrollWidth") <= width, page


async def test_a_tenant_sees_its_own_work_and_no_fleet(browser: Browser, keys: Keys, url: str) -> None:
    mine = submitted(url, keys.tenant, Prompt(tokens=3))
    theirs = submitted(url, keys.operator, Prompt(tokens=3))
    sign_in(browser, keys.tenant)
    assert [link.text for link in browser.all("nav a")] == ["Overview", "Jobs", "Batches", "Models", "Playground"]

    browser.open("jobs")
    browser.until(lambda: browser.all(f"a[href$='{mine}']"), "the tenant's job")
    assert not browser.all(f"a[href$='{theirs}']")
    browser.open(f"jobs/{theirs}")
    browser.shows(f"No job '{theirs}'.", ".page-error")


async def test_a_chat_streams_and_can_be_stopped(browser: Browser, keys: Keys, tmp_path: Path) -> None:
    sign_in(browser, keys.tenant)
    browser.open("playground")
    gate = Gate(tmp_path / "open")
    prompt = Prompt(tokens=30, gate=gate)
    browser.until(lambda: browser.all("select[name=model] option"), "the models")
    browser.one("input[name=max_completion_tokens]").send_keys(str(prompt.tokens))
    browser.one("textarea[name=messages]").send_keys(prompt.body()["messages"][0]["content"], Keyboard.ENTER)

    browser.shows(prompt.words[5], ".turn.assistant")
    assert prompt.words[-1] not in browser.text(".turn.assistant")  # It is shown as it comes.
    gate.open()
    browser.shows(prompt.text.strip(), ".turn.assistant")
    browser.shows("finish_reason: stop")

    forever = Prompt(tokens=1000, gate=Gate(tmp_path / "never"))
    browser.one("textarea[name=messages]").send_keys(forever.body()["messages"][0]["content"], Keyboard.ENTER)
    browser.until(lambda: len(browser.all(".turn.assistant")) == 2, "the second answer")
    browser.press("Stop")
    browser.shows("stopped")


async def test_a_bad_parameter_is_explained_beside_its_field(browser: Browser, keys: Keys) -> None:
    sign_in(browser, keys.tenant)
    browser.open("playground")
    browser.until(lambda: browser.all("select[name=model] option"), "the models")
    browser.one("textarea[name=response_format]").send_keys('{"type": "poem"}')
    browser.one("textarea[name=messages]").send_keys("Hello", Keyboard.ENTER)

    browser.shows("response_format", "[data-field=response_format] .field-error")
    browser.one("textarea[name=response_format]").send_keys("{")
    browser.press("Send")
    browser.shows("not valid JSON", "[data-field=response_format] .field-error")


async def test_the_request_is_shown_as_curl_and_as_python_without_the_key(browser: Browser, keys: Keys) -> None:
    sign_in(browser, keys.tenant)
    browser.open("playground")
    browser.until(lambda: browser.all("select[name=model] option"), "the models")
    browser.one("textarea[name=messages]").send_keys("It's <b>me</b>", Keyboard.ENTER)
    browser.shows("finish_reason")
    for summary in browser.all("details summary"):
        summary.click()

    curl, python = (block.text for block in browser.all("details pre"))
    assert "It'\\''s <b>me</b>" in curl
    assert "$OPENAI_API_KEY" in curl
    assert "client.chat.completions.create(" in python
    compile(python, "shown", "exec")
    assert keys.tenant not in browser.driver.page_source
    assert not browser.all("main b")


async def test_a_job_is_found_followed_and_cancelled(browser: Browser, keys: Keys, url: str, tmp_path: Path) -> None:
    job = submitted(url, keys.tenant, Prompt(tokens=500, gate=Gate(tmp_path / "open")), metadata={"run": "7"})
    sign_in(browser, keys.tenant)
    browser.open("jobs")
    browser.one("input[name=metadata]").send_keys("run=7", Keyboard.ENTER)
    browser.until(lambda: len(browser.all("tbody tr")) == 1, "the one job of run 7")
    browser.one(f"a[href$='{job}']").click()
    browser.press("Show the stream")
    browser.shows("t005", ".answer")
    browser.shows("First token")

    browser.press("Cancel")
    browser.shows("cancelled", "dd .status")
    assert call(url, keys.tenant, f"/v1/jobs/{job}")["status"] == "cancelled"


async def test_an_unknown_job_is_explained(browser: Browser, keys: Keys) -> None:
    sign_in(browser, keys.tenant)
    browser.open("jobs")
    browser.one("input[name=id]").send_keys("chatcmpl-nothing", Keyboard.ENTER)

    browser.shows("No job 'chatcmpl-nothing'.", ".page-error")


async def test_a_batch_is_uploaded_and_followed(browser: Browser, keys: Keys, tmp_path: Path) -> None:
    lines = [
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": Prompt(tokens=2).body(),
        }
        for number in range(3)
    ]
    file = tmp_path / "in.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    sign_in(browser, keys.tenant)
    browser.open("batches")
    browser.one("input[type=file]").send_keys(str(file))
    browser.one("input[name=completion_window]").clear()
    browser.one("input[name=completion_window]").send_keys("soon")
    browser.press("Upload and start")
    browser.shows("completion_window", "[data-field=completion_window] .field-error")

    browser.one("input[name=completion_window]").clear()
    browser.one("input[name=completion_window]").send_keys("1h")
    browser.press("Upload and start")
    browser.shows("Started batch_")
    browser.shows("completed", "tbody .status")
    browser.shows("3 / 3")
    browser.button("Output")


async def test_the_overview_names_what_is_wrong(browser: Browser, keys: Keys, url: str, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "open")
    submitted(url, keys.tenant, Prompt(tokens=50, gate=gate))
    sign_in(browser, keys.operator)
    browser.open("overview")

    browser.shows("of 1,024 slots")
    browser.shows("simulated", "tbody")
    browser.shows("Nothing needs attention.")
    gate.open()


async def test_the_pages_work_with_the_keyboard_alone(browser: Browser, keys: Keys) -> None:
    sign_in(browser, keys.operator)
    body = browser.one("body")
    body.send_keys(Keyboard.TAB)
    order = []
    for _ in range(12):
        element = browser.driver.switch_to.active_element
        order.append(element.text or element.get_attribute("aria-label"))
        element.send_keys(Keyboard.TAB)
    assert [each for each in order if each in ("Jobs", "Batches", "Workers")] == ["Jobs", "Batches", "Workers"]
