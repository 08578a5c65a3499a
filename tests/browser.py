"""A headless Chromium that a test drives, by its DevTools protocol."""

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from websockets.sync.client import connect

from tests.cluster.chaos import wait_until
from tests.conftest import free_port

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Tab:
    """One page. What its console says is kept in `said`."""

    def __init__(self, socket):
        self.socket, self.number, self.said = socket, 0, []
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.command(f"{domain}.enable")

    def command(self, method: str, **about) -> Any:
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": about}))
        while True:
            message = json.loads(self.socket.recv(timeout=30))
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]
            if message["method"] in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
                self.said.append(message["params"])

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        about = {"awaitPromise": True, "returnByValue": True, "userGesture": True}
        found = self.command("Runtime.evaluate", expression=script, **about)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, url: str, width: int) -> None:
        """Go to a page, at a width in pixels."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.command("Emulation.setDeviceMetricsOverride", **size)
        self.command("Page.navigate", url=url)
        wait_until(lambda: self.run("document.readyState") == "complete", 20)

    def press(self, key: str, modifiers: int = 0) -> None:
        """A key, with modifiers as the protocol numbers them: Ctrl is 2."""
        about = {"key": key, "code": key, "modifiers": modifiers, "windowsVirtualKeyCode": {"Enter": 13, "Tab": 9}[key]}
        self.command("Input.dispatchKeyEvent", type="rawKeyDown", **about)
        self.command("Input.dispatchKeyEvent", type="keyUp", **about)

    def type(self, text: str) -> None:
        """Text, as if typed."""
        self.command("Input.insertText", text=text)

    def give(self, selector: str, file: str) -> None:
        """A file to an input."""
        root = self.command("DOM.getDocument")["root"]["nodeId"]
        node = self.command("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.command("DOM.setFileInputFiles", files=[file], nodeId=node)

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        height = self.run("document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": self.run("innerWidth"), "height": height, "scale": 1}
        taken = self.command("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(taken["data"]))


@contextmanager
def browsing(profile: Path) -> Iterator[Tab]:
    """A Chromium of its own, for as long."""
    port = free_port()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}"]
    command = [str(CHROMIUM), *options, f"--remote-debugging-port={port}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with connect(_socket(port), max_size=None, proxy=None) as socket:
            yield Tab(socket)
    finally:
        process.terminate()
        process.wait(20)


def _socket(port: int) -> str:
    found: list[str] = []

    def look() -> bool:
        try:
            tabs = httpx2.get(f"http://127.0.0.1:{port}/json", timeout=5).json()
        except httpx2.HTTPError:
            return False
        found.extend(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        return bool(found)

    wait_until(look, 30)
    return found[0]
