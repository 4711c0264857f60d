"""The page in a real browser: no word on its console, tables that sort, points that say their names, phones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from src.command.reporting import report
from tests.browser import shown

ASKED = """
(async () => {
  const firstColumn = (table) => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
  const answers = {};
  const table = document.querySelector("table.sortable");
  const heads = [...table.querySelectorAll("th button")];
  const bytes = heads.find((head) => head.textContent === "file");
  bytes.click();
  answers.up = firstColumn(table);
  bytes.click();
  answers.down = firstColumn(table);
  const svg = document.querySelector('[data-place="fronts"] svg:has(g[aria-label="dot"])');
  const dot = svg.querySelector('g[aria-label="dot"]').lastElementChild;
  const box = dot.getBoundingClientRect();
  const at = { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true, pointerType: "mouse" };
  const tip = () => svg.querySelector('g[aria-label="tip"]').textContent;
  svg.dispatchEvent(new PointerEvent("pointerenter", at));
  svg.dispatchEvent(new PointerEvent("pointermove", at));
  while (!tip()) await new Promise((done) => requestAnimationFrame(done));
  answers.hovered = dot.getAttribute("aria-label");
  answers.tip = tip();
  answers.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  answers.figures = document.querySelectorAll("figure.plot svg").length;
  return answers;
})()
"""


@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_sorts_names_its_points_and_says_nothing_on_the_console(records: Path, width: int) -> None:
    page = records / "report.html"
    report(["survey"], page, "python -m src.report survey")
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page.read_text())
    assert page.stat().st_size < 1_000_000
    found = shown(page, width, ASKED)
    assert found.console == []
    answers = found.answer
    up, down = answers["up"], answers["down"]
    assert up != down
    assert up[0].startswith("quantize_int8 · ")
    assert down == up[::-1]
    assert answers["hovered"] in answers["tip"]
    assert answers["wide"] == 0
    assert answers["figures"] >= 10
