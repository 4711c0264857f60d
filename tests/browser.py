"""A real browser without a window: what a page becomes in it, and what its console says."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 120  # that a page may take on a busy machine
# The browser reads commands from descriptor 3 and answers on 4, each message ended by a zero byte.
START = 'exec "${@:3}" 3<&"$1" 4>&"$2"'
# The report has run, and every figure that is wide enough to be seen is drawn.
DRAWN = """document.readyState === "complete" && document.documentElement.dataset.drawn === "yes" &&
  [...document.querySelectorAll("figure.plot > div")].every((box) => box.clientWidth < 40 || box.firstElementChild)"""


@dataclass(frozen=True)
class Shown:
    """A page after its scripts have run.

    Attributes:
        dom: The document as text.
        answer: What the page answered to the expression that it was asked; None if it was asked nothing.
        console: What the page said on the console, errors included.
    """

    dom: str
    answer: Any
    console: list[str]


class Devtools:
    """Commands of Chromium's DevTools protocol over two pipes."""

    def __init__(self, commands: int, answers: int) -> None:
        self.commands, self.answers = commands, answers
        self.until = time.monotonic() + SECONDS
        self.sent = 0
        self.read = b""
        self.session: dict[str, str] = {}

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and wait for its result; what the browser says meanwhile is passed over."""
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": parameters} | self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.sent:
                assert "error" not in answer, (method, answer)
                return answer["result"]

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript becomes in the page; a promise is waited for."""
        result = self.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.read:
            ready, _, _ = select.select([self.answers], [], [], max(0.0, self.until - time.monotonic()))
            assert ready, f"the browser answered nothing in {SECONDS} s"
            part = os.read(self.answers, 1 << 16)
            assert part, "the browser has ended"
            self.read += part
        first, _, self.read = self.read.partition(b"\0")
        return json.loads(first)


def browser() -> str:
    """Path of the browser; skips the test if there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"none of {', '.join(NAMES)} is installed")
    return found


@contextmanager
def opened(said: Path) -> Iterator[Devtools]:
    """A browser with one empty page, ended with the block; what it prints is written to the file `said`."""
    commands, to_browser = os.pipe()
    from_browser, answers = os.pipe()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--remote-debugging-pipe"]
    options += [f"--user-data-dir={said.parent / 'browser'}", "about:blank"]
    command = ["bash", "-c", START, "bash", str(commands), str(answers), browser(), *options]
    with said.open("w") as log, subprocess.Popen(command, stderr=log, pass_fds=(commands, answers)) as process:
        os.close(commands)
        os.close(answers)
        tools = Devtools(to_browser, from_browser)
        try:
            yield tools
            tools.session = {}
            tools.ask("Browser.close")
            process.wait(SECONDS)
        finally:
            process.kill()
            os.close(to_browser)
            os.close(from_browser)


def shown(page: Path, width: int = 1280, asked: str = "null") -> Shown:
    """Open a page, wait until its figures are drawn, ask it for the value of an expression, and return what it became.

    The waiting is in real time and for the drawing itself: a browser's virtual time runs ahead of a busy processor.
    """
    said = page.parent / "browser.log"
    with opened(said) as tools:
        targets = tools.ask("Target.getTargets")["targetInfos"]
        target = next(each["targetId"] for each in targets if each["type"] == "page")
        session = tools.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tools.session = {"sessionId": session}
        size = {"width": width, "height": 2000, "deviceScaleFactor": 1, "mobile": False}
        tools.ask("Emulation.setDeviceMetricsOverride", **size)
        tools.ask("Page.enable")
        tools.ask("Page.navigate", url=page.as_uri())
        while not tools.value(DRAWN):
            time.sleep(0.05)
        answer = tools.value(asked)
        dom = tools.value("document.documentElement.outerHTML")
    return Shown(dom, answer, re.findall(r"CONSOLE:\d+\] (.*)", said.read_text()))
