"""A real browser without a window: opens a page from a file, clicks, types, looks at it, and notes whatever goes wrong.

Speaks the DevTools protocol through two pipes, so that it needs nothing but Chromium (Debian: apt-get install chromium).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --hide-scrollbars --disable-dev-shm-usage --remote-debugging-pipe""".split()
KEYS = {  # name: (code, number)
    "ArrowLeft": ("ArrowLeft", 37), "ArrowUp": ("ArrowUp", 38), "ArrowRight": ("ArrowRight", 39),
    "ArrowDown": ("ArrowDown", 40), "Escape": ("Escape", 27), "Enter": ("Enter", 13), "Tab": ("Tab", 9),
    "Backspace": ("Backspace", 8), "Delete": ("Delete", 46), "Home": ("Home", 36), "End": ("End", 35), "PageUp": ("PageUp", 33), "PageDown": ("PageDown", 34), " ": ("Space", 32),
}  # fmt: skip

UNREADABLE = """(() => {  // texts below a contrast of 4.5 to 1 or 10 px, texts cut off
  const rgba = (c) => { const n = c.match(/[\\d.]+/g).map(Number); return [n[0], n[1], n[2], n[3] ?? 1]; };
  const over = (top, under) => top.slice(0, 3).map((x, i) => x * top[3] + under[i] * (1 - top[3])).concat(1);
  const behind = (e) => { const c = rgba(getComputedStyle(e).backgroundColor); return c[3] === 1 || !e.parentElement ? c : over(c, behind(e.parentElement)); };
  const light = (c) => { const [r, g, b] = c.map(x => (x /= 255) <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = e.tagName === 'INPUT' ? e.value : [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.textContent).join('').trim();
    if (!own || !e.getClientRects().length || ['SCRIPT', 'OPTION'].includes(e.tagName) || e.type === 'range' || e.type === 'checkbox' || e.disabled) continue;
    const style = getComputedStyle(e), back = behind(e), front = over(rgba(style.color), back);
    const [a, b] = [light(front), light(back)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
    const box = e.closest('.card, #lens, #heat');
    if (ratio < 4.5 || parseFloat(style.fontSize) < 10) found.push([e.tagName, own, ratio, style.fontSize]);
    if (box && e.getBoundingClientRect().right > box.getBoundingClientRect().right) found.push([e.tagName, own, 'cut off']);
    if (e.classList.contains('cell') && e.scrollWidth > e.clientWidth + 1) found.push([own, 'does not fit']);
  }
  if (document.documentElement.scrollWidth > innerWidth) found.push('wider than the window');
  return found;
})()"""


class Browser:
    """`with Browser() as browser: page = browser.open("x.html")`."""

    def __enter__(self) -> Browser:
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        (their_in, self._out), (self._in, their_out) = os.pipe(), os.pipe()

        def pipes_as_3_and_4() -> None:
            first, second = os.dup(their_in), os.dup(their_out)
            os.dup2(first, 3)
            os.dup2(second, 4)

        self._process = subprocess.Popen(
            [str(CHROMIUM), *FLAGS, f"--user-data-dir={self._profile}", "about:blank"],
            preexec_fn=pipes_as_3_and_4, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(their_in)
        os.close(their_out)
        self._buffer, self._last, self._pages = b"", 0, {}
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self.call("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(self, path: os.PathLike[str] | str, width: int = 1280, height: int = 800, *, fragment: str = "") -> Page:
        """The page of a file, loaded, in a tab of its own; fragment: what follows the # in its address."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.size(width, height)
        page.call("Page.navigate", url=Path(path).absolute().as_uri() + (fragment and f"#{fragment}"))
        page.wait("document.readyState === 'complete' && location.protocol === 'file:'")
        return page

    def call(self, method: str, session: str | None = None, **parameters: object) -> dict:
        """Call a method of the DevTools protocol; events that come meanwhile go to their pages."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        os.write(self._out, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            answer = self._receive(60)
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _receive(self, seconds: float) -> dict:
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], seconds)[0]:
                raise RuntimeError("Chromium does not answer")
            part = os.read(self._in, 1 << 20)
            if not part:
                raise RuntimeError("Chromium has ended")
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(text)
        if "method" in message and message.get("sessionId") in self._pages:
            self._pages[message["sessionId"]].note(message["method"], message["params"])
        return message


class Page:
    """One tab. problems: errors and warnings so far. requests: the addresses asked for, but the page itself."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session
        self.problems: list[str] = []
        self.requests: list[str] = []

    def note(self, event: str, facts: dict) -> None:
        """Keep what went wrong, and what was asked for."""
        if event == "Runtime.exceptionThrown":
            details = facts["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description", details["text"]))
        elif event == "Runtime.consoleAPICalled" and facts["type"] in ("error", "warning", "assert"):
            self.problems.append(" ".join(str(a.get("value", a.get("description"))) for a in facts["args"]))
        elif event == "Log.entryAdded" and facts["entry"]["level"] in ("error", "warning"):
            self.problems.append(facts["entry"]["text"])
        elif event == "Network.requestWillBeSent":
            url = facts["request"]["url"]
            if not url.startswith("data:") and facts.get("type") != "Document":
                self.requests.append(url)

    def call(self, method: str, **parameters: object) -> dict:
        """Call a method of the DevTools protocol in this tab."""
        return self._browser.call(method, self._session, **parameters)

    def run(self, script: str) -> object:
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"].get("description", script))
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 20) -> None:
        """Until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"still not true after {seconds} s: {script}"
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        """The text of the first element that `selector` finds."""
        return str(self.run(f"document.querySelector({json.dumps(selector)}).textContent"))

    def click(self, selector: str) -> None:
        """Click on the middle of an element with the mouse; what lies over it gets the click."""
        where = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'nearest'}});"
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=where[0], y=where[1], button="left", clickCount=1)

    def press(self, key: str, times: int = 1, modifiers: int = 0) -> None:
        """Press a key, by its name or as the letter it writes. modifiers: 8 is shift."""
        code, number = KEYS.get(key, (f"Key{key.upper()}", ord(key.upper()[0])))
        facts = {"key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": modifiers}
        text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
        for _ in range(times):
            self.call("Input.dispatchKeyEvent", type="keyDown", **facts, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", **facts)

    def write(self, text: str) -> None:
        """Type text where the focus is."""
        self.call("Input.insertText", text=text)

    def wheel(self, x: float, y: float, down: float) -> None:
        """Turn the mouse wheel over a point."""
        self.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=down)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse at `start`, move it, and let go at `end`."""
        steps = [("mousePressed", start), ("mouseMoved", start), ("mouseMoved", end), ("mouseReleased", end)]
        for kind, (x, y) in steps:
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def size(self, width: int, height: int, scale: float = 1) -> None:
        """Of the window, in pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )

    def prefer(self, scheme: str) -> None:
        """As if the reader's system were "dark" or "light"."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path: os.PathLike[str] | str) -> None:
        """What a reader sees, as a PNG."""
        Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@pytest.fixture(scope="module")
def browser():
    """One browser for all tests of a file."""
    with Browser() as browser:
        yield browser


@pytest.fixture
def show(browser, tmp_path):
    """Opens the page of a picture; at the end nothing may have gone wrong, and nothing been asked of a network."""
    pages = []

    def show(picture, **size):
        page = browser.open(picture.save(tmp_path / f"{len(pages)}.html"), **size)
        page.wait("window.page !== undefined")
        pages.append(page)
        return page

    yield show
    for page in pages:
        assert page.problems == [] and page.requests == []
