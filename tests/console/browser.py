"""Chromium without a window, driven through Debian's chromedriver."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.conftest import missing

WITHIN = 60
T = TypeVar("T")


class Browser:
    """One window on the server at `url`. It records what the pages print and which addresses they ask."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = url

    def open(self, page: str) -> None:
        """Opens a page by what stands after `#/`, as a fresh document."""
        self.driver.get("about:blank")
        self.driver.get(f"{self.url}/console/#/{page}")
        self.until(lambda: self.all("h1, .sign-in"), f"the page {page}")

    @contextmanager
    def tab(self) -> Iterator[Self]:
        """A new tab, which knows nothing of the last one's key, and forgets what the pages before it printed."""
        first = self.driver.current_window_handle
        self.driver.switch_to.new_window("tab")
        self.problems()
        self.asked()
        try:
            yield self
        finally:
            self.driver.close()
            self.driver.switch_to.window(first)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.until(lambda: next(iter(self.all(selector)), None), selector)

    def text(self, selector: str = "main") -> str:
        return "\n".join(element.text for element in self.all(selector))

    def button(self, label: str) -> WebElement:
        return self.until(
            lambda: next(
                (each for each in self.all("button, a.button") if each.text == label and each.is_displayed()), None
            ),
            f"the button {label!r}",
        )

    def press(self, label: str) -> None:
        """Presses a button. Pages draw themselves anew while they poll, so the button may have to be found again."""

        def pressed() -> bool:
            self.button(label).click()
            return True

        self.until(pressed, f"to press {label!r}")

    def shows(self, text: str, selector: str = "main") -> None:
        self.until(lambda: text in self.text(selector), f"{selector} to show {text!r}")

    def until(self, condition: Callable[[], T | None], what: str) -> T:
        wait = WebDriverWait(self.driver, WITHIN, ignored_exceptions=[StaleElementReferenceException])
        found = wait.until(lambda _: condition(), f"waited for {what}; the page shows:\n{self._seen()}")
        assert found
        return found

    def resize(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def problems(self) -> list[str]:
        """What the pages printed as a warning or worse since the last call."""
        return [f"{entry['level']}: {entry['message']}" for entry in self.driver.get_log("browser")]

    def asked(self) -> set[str]:
        """The addresses that the pages asked for since the last call."""
        events = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        return {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}

    def violations(self, axe: str) -> list[str]:
        """What axe-core finds wrong with the page as it is."""
        self.driver.execute_cdp_cmd("Runtime.evaluate", {"expression": axe})  # The page's policy forbids scripts in it.
        run = "axe.run({resultTypes: ['violations']})"
        found = self.driver.execute_cdp_cmd(
            "Runtime.evaluate", {"expression": run, "awaitPromise": True, "returnByValue": True}
        )
        return [described(each) for each in found["result"]["value"]["violations"]]

    def _seen(self) -> str:
        try:
            return self.text()[:2000]
        except StaleElementReferenceException:
            return "(it is being drawn)"


def described(violation: Mapping[str, Any]) -> str:
    return f"{violation['id']}: {violation['help']}: {[node['html'][:200] for node in violation['nodes'][:3]]}"


@contextmanager
def chromium(url: str, profile: Path) -> Iterator[Browser]:
    """A browser with nothing in it: no key, no choices."""
    program, drives = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or drives is None:
        missing("chromium")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "WARNING", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(drives))
    try:
        yield Browser(driver, url)
    finally:
        driver.quit()
