"""Debian's Chromium, driven by its own driver. It reaches this node alone, and its console is kept."""

import contextlib
import json
import pathlib

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

import kit

SHOTS = kit.ROOT / "target/views"


class Page:
    def __init__(self, driver):
        self.driver = driver
        self.url = None

    def open(self, node):
        self.url = f"http://127.0.0.1:{node.port}/"
        # What Chromium shows before is its own.
        self.requests()
        self.driver.get(self.url)
        kit.eventually(lambda: self.text("#age").count("ago"))
        return self

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector)

    def click(self, selector):
        self.one(selector).click()

    def keys(self, *keys):
        self.driver.switch_to.active_element.send_keys(*keys)

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def rows(self):
        """What is to be seen, in order: name and cells."""
        return self.run(
            """return [...document.querySelectorAll('.row')].filter((r) => !r.hidden)
                 .sort((a, b) => a.getAttribute('aria-rowindex') - b.getAttribute('aria-rowindex'))
                 .map((r) => [r.title, ...[...r.querySelectorAll('b')].map((b) => b.textContent)])"""
        )

    def paths(self):
        return [row[0] for row in self.rows()]

    def row(self, path):
        return next(r for r in self.all(".row") if r.get_attribute("title") == path)

    def shot(self, name):
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(SHOTS / f"{name}.png"))

    def requests(self):
        """Every address that the page asked, since the last time."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return asked + [e["params"]["url"] for e in events if e["method"] == "Network.webSocketCreated"]

    def complaints(self):
        """Errors in the console, since the last time."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


@contextlib.contextmanager
def chromium(profile, *arguments, size="1280,800"):
    options = Options()
    options.binary_location = "/usr/bin/chromium"
    for argument in [
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", f"--user-data-dir={profile}", f"--window-size={size}", *arguments,
    ]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = Service("/usr/bin/chromedriver", port=kit.free_port(), log_path=str(pathlib.Path(profile).parent / "chromedriver.log"))
    driver = webdriver.Chrome(service=service, options=options)
    try:
        yield Page(driver)
    finally:
        driver.quit()
