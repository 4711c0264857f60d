"""A real browser without a window, driven by the DevTools protocol: for the pictures of the docs, and for tests."""

from __future__ import annotations

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

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 120  # that an answer may take on a busy machine
# The browser reads commands from descriptor 3 and answers on 4, each message ended by a zero byte.
START = 'exec "${@:3}" 3<&"$1" 4>&"$2"'


class Devtools:
    """Commands of Chromium's DevTools protocol to one page, over two pipes.

    Args:
        commands, answers: File descriptors of the pipes.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._sent = 0
        self._read = b""
        self._session: dict[str, str] = {}
        targets = self.ask("Target.getTargets")["targetInfos"]
        page = next(each["targetId"] for each in targets if each["type"] == "page")
        self._session = {"sessionId": self.ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]}
        self.ask("Page.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and wait for its result; what the browser says meanwhile is passed over."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters} | self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + SECONDS
        while True:
            answer = self._next(until)
            if answer.get("id") == self._sent:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript comes to in the page; a promise is waited for."""
        result = self.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"the page raised {result['exceptionDetails']}")
        return result["result"].get("value")

    def open(self, address: str, width: int, height: int) -> None:
        """Begin to load a page in a window of so many pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        self.ask("Page.navigate", url="about:blank")
        self.ask("Page.navigate", url=address)

    def close(self) -> None:
        """End the browser."""
        self._session = {}
        self.ask("Browser.close")

    def _next(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise RuntimeError(f"the browser answered nothing in {SECONDS} s")
            part = os.read(self._answers, 1 << 16)
            if not part:
                raise RuntimeError("the browser has ended")
            self._read += part
        first, _, self._read = self._read.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        return message


def browser() -> str | None:
    """Path of the first browser that is installed; None if there is none."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


@contextmanager
def opened(program: str, said: Path, *options: str) -> Iterator[Devtools]:
    """A browser with one empty page, ended with the block.

    Args:
        program: Path of the browser.
        said: File to which it writes what it prints; its profile lies beside it.
        options: More options of its command line.
    """
    commands, to_browser = os.pipe()
    from_browser, answers = os.pipe()
    given = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--remote-debugging-pipe"]
    given += [*options, f"--user-data-dir={said.parent / 'browser'}", "about:blank"]
    command = ["bash", "-c", START, "bash", str(commands), str(answers), program, *given]
    with said.open("w") as log, subprocess.Popen(command, stderr=log, pass_fds=(commands, answers)) as process:
        os.close(commands)
        os.close(answers)
        try:
            tools = Devtools(to_browser, from_browser)
            yield tools
            tools.close()
            process.wait(SECONDS)
        finally:
            process.kill()
            os.close(to_browser)
            os.close(from_browser)
