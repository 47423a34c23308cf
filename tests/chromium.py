"""A real browser to open a page in: headless Chromium, spoken to over a pipe, with a profile of its own and no network."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.live import PATIENCE_S

NAMES = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
)


def executable() -> str | None:
    """Where the browser is; None: there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One window. `events` is what it told unasked: console messages, exceptions, requests."""

    def __init__(self, to_fd: int, from_fd: int) -> None:
        self._to_fd, self._from_fd = to_fd, from_fd
        self._number = 0
        self._rest = b""
        self.events: list[dict[str, Any]] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session: str | None = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask the window for something, and wait for the answer."""
        return self._call(method, self._session, **params)

    def _call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._to_fd, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from_fd], [], [], PATIENCE_S)
            assert ready, "the browser says nothing"
            read = os.read(self._from_fd, 1 << 20)
            assert read, "the browser is gone"
            self._rest += read
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def open(self, page: Path, width: int = 1200, height: int = 900, *, dark: bool = False) -> str:
        """Load a page, wait until its charts are drawn, and say what became of them."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=page.resolve().as_uri())
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            state = self.value("document.readyState === 'complete' && (document.documentElement.dataset.charts ?? '')")
            if state:
                return str(state)
            time.sleep(0.05)
        return "nothing"

    def value(self, expression: str) -> Any:
        """What an expression is in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """What a mouse does."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def picture(self) -> bytes:
        """What is in the window, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def told(self, *methods: str) -> list[dict[str, Any]]:
        """Events of these kinds."""
        return [event["params"] for event in self.events if event.get("method") in methods]

    def close(self) -> None:
        """End the browser in peace."""
        self._session = None
        self._call("Browser.close")


@contextmanager
def browsing(profile: Path) -> Iterator[Browser]:
    """A browser while inside; afterwards nothing of it is left."""
    program = executable()
    assert program is not None
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    shell = f'exec "$0" "$@" 3<&{to_read} 4>&{from_write}'  # the pipe's two ends have to be descriptors 3 and 4
    command = ["bash", "-c", shell, program, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(
        command, pass_fds=(to_read, from_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        os.close(to_read)
        os.close(from_write)
        browser = Browser(to_write, from_read)
        yield browser
        browser.close()
        process.wait(PATIENCE_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(to_write)
        os.close(from_read)
