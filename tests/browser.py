"""A page in headless Chromium, driven over the DevTools protocol."""

import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest


class Browser:
    """The page of a running Chromium, whose debugging port is in `profile`."""

    def __init__(self, profile: Path) -> None:
        import websocket

        self.events, self.numbers = [], itertools.count(1)
        port = self.wait(lambda: (profile / "DevToolsActivePort").read_text().split()[0])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=10) as answer:
            (target,) = [target for target in json.load(answer) if target["type"] == "page"]
        self.socket = websocket.create_connection(target["webSocketDebuggerUrl"], timeout=20, suppress_origin=True)
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    @staticmethod
    def wait(ready):
        for _ in range(200):
            try:
                if found := ready():
                    return found
            except (OSError, IndexError):
                pass
            time.sleep(0.1)
        raise TimeoutError

    def call(self, method: str, **parameters) -> dict:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (message := json.loads(self.socket.recv())).get("id") != number:
            self.events.append(message)
        assert "error" not in message, message
        return message["result"]

    def evaluate(self, expression: str, **parameters):
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, **parameters)
        return found["result"].get("value")

    def open(self, path: Path) -> None:
        self.call("Page.navigate", url=path.as_uri())
        loaded = f"location.href == {json.dumps(path.as_uri())} && document.readyState == 'complete'"
        self.wait(lambda: self.evaluate(loaded))

    def open_on_phone(self, path: Path) -> None:
        """Open a page 375 px wide, which it must fit; it asks for no other file and has no error."""
        screen = {"width": 375, "height": 900, "deviceScaleFactor": 1, "mobile": True}
        self.call("Emulation.setDeviceMetricsOverride", **screen)
        self.events.clear()
        self.open(path)
        assert self.evaluate("document.documentElement.scrollWidth") <= 375
        requested = [event["params"]["request"]["url"] for event in self.events if "request" in event.get("params", {})]
        assert {url.partition(":")[0] for url in requested} <= {"file", "data"}
        assert not [event for event in self.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium")
    profile = tmp_path_factory.mktemp("profile")
    flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0")
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([program, *flags, f"--user-data-dir={profile}", "about:blank"], **silent) as process:
        try:
            browser = Browser(profile)
            yield browser
            browser.socket.close()
        finally:
            process.terminate()
