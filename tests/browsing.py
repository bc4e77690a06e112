"""A browser for tests of pages, where there is one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

# A text's contrast with what it stands on (WCAG 2.2), and the worst of a page; pictures are not text.
CONTRAST = """
() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const over = (layers) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const layer of layers) { canvas.fillStyle = layer; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => rgb.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, place) => sum + v * [0.2126, 0.7152, 0.0722][place], 0);
  const found = [];
  for (const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT); walker.nextNode();) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest("script, style")) continue;
    const backs = [];
    for (let each = element; each; each = each.parentElement) backs.unshift(getComputedStyle(each).backgroundColor);
    const style = getComputedStyle(element);
    const colour = element.closest("svg") ? style.fill : style.color;
    const [back, text] = [over(backs), over([...backs, colour])].map(light);
    found.push([(Math.max(back, text) + 0.05) / (Math.min(back, text) + 0.05), walker.currentNode.data]);
  }
  return found.sort((a, b) => a[0] - b[0]).slice(0, 3);
}
"""


@contextmanager
def launched() -> Iterator[Browser]:
    """The browser, without its sandbox, which needs rights that a container's root has not; pages are our own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
