"""The pictures of the pages that a survey leaves: ``python docs/screenshots.py`` draws them again.

A survey is run (its stages are found again if they are there), MLflow's server is started on a free port, and a browser
without a window opens the survey's ``Compare:`` address, its logged models and its report, wide and narrow.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the tests, whose browser this is, are not installed
from tests.devtools import BROWSERS, Devtools, browser, opened  # noqa: E402

PICTURES = ROOT / "docs" / "measured"
# An epoch instead of ten: some minutes on one core; the whole survey takes half an hour.
SURVEY = ["+experiment=mnist_survey", "training.epochs=1"]
WIDTHS = {"wide": 1280, "narrow": 400}
LARGEST_BYTES = 300_000
RESTING_SECONDS, LONGEST_SECONDS = 2.5, 120
STATE = "document.body ? document.readyState + document.body.innerHTML.length + document.body.innerText : ''"


class Browser:
    """MLflow's page and the report in a window; one page is open at a time.

    Args:
        tools: Commands of the browser.
    """

    def __init__(self, tools: Devtools) -> None:
        self._tools = tools
        # As with a mouse: without one Plotly lays its buttons over every chart.
        features = [{"name": name, "value": "hover"} for name in ("hover", "any-hover")]
        tools.ask("Emulation.setEmulatedMedia", features=features)

    def open(self, address: str, text: str, width: int, height: int) -> None:
        """Open a page in a window, and wait until it shows a text and rests: nothing in it changes any more."""
        self._tools.open(address, width, height)
        self.rest(text)

    def rest(self, text: str) -> None:
        """Wait until the page shows a text and nothing in it has changed for a while."""
        seen, shown = None, False
        since = begin = time.monotonic()
        while not shown or time.monotonic() - since < RESTING_SECONDS:
            time.sleep(0.25)
            now = self._tools.value(STATE) or ""
            shown = text in now
            if now != seen:
                seen, since = now, time.monotonic()
            if time.monotonic() - begin > LONGEST_SECONDS:
                raise SystemExit(f"The page does not come to rest with {text!r}: it shows {now[-500:]!r}")

    def click(self, selector: str) -> None:
        """Click on an element, if it is there."""
        self._tools.value(f"document.querySelector({json.dumps(selector)})?.click()")

    def picture(self) -> Image.Image:
        """The window as a picture."""
        data = self._tools.ask("Page.captureScreenshot", format="png")["data"]
        return Image.open(BytesIO(base64.b64decode(data))).convert("RGB")


def main() -> int:
    """Run the survey, open its pages, write the pictures; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("survey", nargs="*", default=SURVEY, help="what src.run is given")
    parser.add_argument("--to", type=Path, default=PICTURES, help="folder of the pictures")
    parser.add_argument("--folder", type=Path, default=Path("build/mnist_survey"), help="of the survey and its store")
    parser.add_argument("--again", action="store_true", help="do not run the survey: open what is in --folder")
    arguments = parser.parse_args()
    folder, program = arguments.folder, browser()
    if program is None:
        raise SystemExit(f"None of {', '.join(BROWSERS)} is installed.")
    if not arguments.again:
        shutil.rmtree(folder, ignore_errors=True)
        run_survey(arguments.survey, folder)
    arguments.to.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as profile,
        mlflow_server(store(folder)) as root,
        opened(program, Path(profile) / "browser.log", "--hide-scrollbars") as tools,
    ):
        for name, picture in pictures(Browser(tools), folder, root):
            write(picture, arguments.to / f"{name}.png")
    return 0


def store(folder: Path) -> str:
    """Address of the survey's tracking store."""
    return f"sqlite:///{folder.absolute() / 'mlflow.db'}"


def run_survey(words: list[str], folder: Path) -> None:
    """Run a survey; what it prints, its ``Compare:`` address among it, is kept beside its results."""
    folder.mkdir(parents=True)
    where = [f"hydra.sweep.dir={folder / 'survey'}", f"tracking.uri={store(folder)}"]
    command = [sys.executable, "-m", "src.run", *words, *where]
    with (folder / "said.txt").open("w", encoding="utf-8") as said:
        subprocess.run(command, stdout=said, check=True)


@contextmanager
def mlflow_server(uri: str) -> Iterator[str]:
    """MLflow's server of a store on a free port, while the context is open; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen([*command, "--port", str(port)], start_new_session=True, **quiet)
    root = f"http://127.0.0.1:{port}"
    try:
        _wait_for(root)
        yield root
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def _wait_for(root: str) -> None:
    for _ in range(240):
        with suppress(OSError), urllib.request.urlopen(f"{root}/health", timeout=5):
            return
        time.sleep(0.5)
    raise SystemExit(f"Nothing answers at {root}.")


def pictures(window: Browser, folder: Path, root: str) -> Iterator[tuple[str, Image.Image]]:
    """Each picture with its name."""
    said = re.search(r"https?://\S+viewStateShareKey=\S+", (folder / "said.txt").read_text(encoding="utf-8"))
    if said is None:
        raise SystemExit(f"The survey in {folder} has printed no address.")
    compare = re.sub(r"^https?://[^/]+", root, said[0])
    report = (folder.absolute() / "survey" / "report.html").as_uri()
    for size, width in WIDTHS.items():
        narrow = size == "narrow"
        for view, address, height in (
            ("runs", compare, 900 if narrow else 460),
            ("charts", f"{compare}&compareRunsMode=CHART", 900 if narrow else 1450),
            ("smallest", compare.replace("=compression", "=smallest"), 900 if narrow else 460),
        ):
            window.open(address, "matching run", width, height)
            _make_room(window, narrow)
            yield f"mlflow_{view}_{size}", window.picture()
        window.open(report, "Accuracy against", width, 2000)
        yield f"report_{size}", window.picture()


def _make_room(window: Browser, narrow: bool) -> None:
    """Close what MLflow opens beside the runs, as a person does: the assistant, and its menu if there is no room."""
    window.click("[data-component-id='mlflow.assistant.chat_panel.close']")
    if narrow:
        window.click("[data-component-id='mlflow_header.toggle_sidebar_button']")
    window.click("[data-component-id='mlflow.experiment_page.shared_view.dismiss']")
    window.rest("matching run")


def write(picture: Image.Image, path: Path) -> None:
    """Write a picture with as few colours as it needs to stay small."""
    picture.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    if path.stat().st_size > LARGEST_BYTES:
        raise SystemExit(f"{path} has {path.stat().st_size:,} bytes, more than {LARGEST_BYTES:,}.")


if __name__ == "__main__":
    sys.exit(main())
