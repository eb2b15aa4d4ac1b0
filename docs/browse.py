"""Open every built page in headless Chromium, narrow and wide, light and dark: `python -m docs.browse BUILT [SHOTS]`.

It fails where a page is wider than the window, shows TeX instead of a formula, or writes an error to the console; then
the search is asked and a statement's link hovered, from files, without a server. It needs `chromedriver`.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SIZES = ((390, 844), (1280, 900))
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]
# What is wrong with a page as it stands: how far it overflows, formulas that failed, TeX that no one has read.
PROBLEMS = r"""
const found = [], root = document.documentElement;
if (root.scrollWidth > innerWidth + 1) found.push(`${root.scrollWidth - innerWidth} px too wide`);
const hides = (node) => /auto|scroll|hidden/.test(getComputedStyle(node).overflowX);
const scrolls = (node) => node && (hides(node) || scrolls(node.parentElement.closest("article *")));
for (const node of document.querySelectorAll("article *")) {
  const over = node.getBoundingClientRect().right - innerWidth;
  if (over < 1 || scrolls(node)) continue;
  found.push(`${node.tagName} ${over.toFixed()} px too wide: ${node.textContent.trim().slice(0, 40)}`);
}
for (const error of document.querySelectorAll(".katex-error")) found.push(`formula ${error.textContent}`);
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const inside = walk.currentNode.parentElement.closest("pre, code, script, style, .katex, textarea");
  const tex = walk.currentNode.data.match(/\\\(|\\\[|\\(?:frac|eps|sum|lambda|bar)\b|\$[^$ ][^$]*\$/);
  if (tex && !inside) found.push(`TeX ${walk.currentNode.data.trim().slice(0, 60)}`);
}
return found;
"""


class Browser:
    """The few words of the WebDriver protocol that are needed."""

    def __init__(self, url: str) -> None:
        options = {"args": FLAGS, "binary": "/usr/bin/chromium"}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self.url = url
        self.url = f"{url}/session/{self.post('session', capabilities={'alwaysMatch': wanted})['sessionId']}"

    def post(self, path: str, **body: Any) -> Any:
        return self._send("POST", path, json.dumps(body).encode())

    def get(self, path: str) -> Any:
        return self._send("GET", path, None)

    def _send(self, method: str, path: str, body: bytes | None) -> Any:
        request = urllib.request.Request(
            f"{self.url}/{path}", body, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def run(self, script: str) -> Any:
        return self.post("execute/sync", script=script, args=[])

    def cdp(self, command: str, **params: Any) -> Any:
        return self.post("goog/cdp/execute", cmd=command, params=params)

    def shaped(self, width: int, height: int, scheme: str) -> None:
        """Window size and colour scheme; furo follows the latter."""
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.post("se/log", type="browser") if entry["level"] == "SEVERE"]

    def shot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.get("screenshot")))


@contextmanager
def browser() -> Iterator[Browser]:
    """Chromium behind its driver, on a free port, for as long as it is needed."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://localhost:{port}/status", timeout=5)
                break
            except urllib.error.URLError:
                time.sleep(0.1)
        yield Browser(f"http://localhost:{port}")
    finally:
        driver.terminate()


def problems(chromium: Browser, page: Path, shots: Path | None) -> Iterator[str]:
    """Of one page, in each size and scheme."""
    chromium.post("url", url=page.as_uri())
    yield from (f"console: {error}" for error in chromium.errors())
    for width, height in SIZES:
        for scheme in ("light", "dark"):
            chromium.shaped(width, height, scheme)
            yield from (f"{width} px, {scheme}: {text}" for text in chromium.run(PROBLEMS))
            if shots:
                name = re.sub(r"\W+", "-", "-".join(page.with_suffix("").parts[-2:]))
                chromium.shot(shots / f"{name}-{width}-{scheme}.png")


def reading(chromium: Browser, built: Path) -> Iterator[str]:
    """Search finds a name, and a link to a statement shows it."""
    chromium.shaped(1280, 900, "light")
    chromium.post("url", url=f"{(built / 'search.html').as_uri()}?q=ClassBalancing")
    time.sleep(2)
    if not chromium.run("return document.querySelectorAll('#search-results li a').length"):
        yield "search.html: nothing is found for ClassBalancing"
    chromium.post("url", url=(built / "playground.html").as_uri())
    link = "document.querySelector('article a[href*=\"#statement-\"]')"
    chromium.run(f"{link}.dispatchEvent(new PointerEvent('pointerenter', {{pointerType: 'mouse'}}))")
    shown = chromium.run(
        "const box = document.querySelector('#statement-preview'); return box.hidden ? '' : box.innerText"
    )
    if not shown.startswith("Statement "):
        yield f"playground.html: the preview of a statement shows {shown!r}"
    yield from playing(chromium)


def playing(chromium: Browser) -> Iterator[str]:
    """The playground in place: keys move a bar, and another law parts the two curves."""
    bar = "document.querySelector('.playground-laws g[role=slider]')"
    press = (
        f"{bar}.dispatchEvent(new KeyboardEvent('keydown', {{key: '%s'}})); return {bar}.getAttribute('aria-valuenow')"
    )
    values = [int(chromium.run(press % key)) for key in ("ArrowDown", "PageDown", "Home", "End")]
    if values != [173, 87, 1, 1000]:
        yield f"playground.html: keys move a bar to {values}"
    if "coincide" not in chromium.run("return document.querySelector('.playground-said').textContent"):
        yield "playground.html: under the null law the curves do not coincide"
    law = "const law = document.querySelector('.playground-densities select')"
    chromium.run(f"{law}; law.value = 'uniform'; law.dispatchEvent(new Event('change'))")
    time.sleep(0.5)
    if "apart" not in chromium.run("return document.querySelector('.playground-said').textContent"):
        yield "playground.html: under the uniform law the curves coincide"
    yield from (f"playground.html: console: {error}" for error in chromium.errors())


def main(built: Path, shots: Path | None) -> int:
    pages = [page for page in sorted(built.rglob("*.html")) if "_static" not in page.parts]
    first = [page for page in pages if page.parent.name != "api" and "source" not in page.parts]
    few = [page for page in pages if page not in first][::20]  # these are all alike
    if shots:
        shots.mkdir(parents=True, exist_ok=True)
    wrong = 0
    with browser() as chromium:
        for page in [*first, *few]:
            for text in dict.fromkeys(problems(chromium, page, shots)):
                wrong += 1
                print(f"{page.relative_to(built)}: {text}")
        for text in reading(chromium, built):
            wrong += 1
            print(text)
    print(f"{len(first) + len(few)} pages opened, {wrong} problems")
    return min(wrong, 1)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]) if len(sys.argv) > 2 else None))
