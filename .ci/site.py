"""Open the built documentation from its folder, in a browser: python .ci/site.py SITE."""

from __future__ import annotations

import re
import sys
from pathlib import Path

root = Path(__file__).parents[1]
sys.path.insert(0, str(root / "tests"))

from browser import Browser  # noqa: E402

site = Path(sys.argv[1]).resolve()
loaded = re.compile(r'<(?:script|link|img|iframe)\b[^>]*?(?:src|href)="(?:https?:)?//[^"]*"')
for page in site.rglob("*.html"):
    found = loaded.findall(page.read_text(encoding="utf-8"))
    assert not found, f"{page} asks another server: {found[0]}"

with Browser() as browser:
    for path in (site / "index.html", *sorted(site.glob("learn/*.html"))):
        for width in (1280, 390):
            page = browser.open(path, width=width)
            assert page.run("document.documentElement.scrollWidth <= innerWidth"), f"{path.name}: cut at {width} px"
            formulas = "[...document.querySelectorAll('div:has(> math)')]"
            whole = f"{formulas}.every((div) => div.scrollHeight <= div.clientHeight)"
            assert page.run(whole), f"{path.name}: a formula is cut"
            page.call("Page.close")
    page = browser.open(site / "index.html")
    page.click("input.md-search__input")
    page.write("softma")
    page.press("x")  # the page listens for keys, as a reader presses them
    page.wait("document.querySelectorAll('.md-search-result__item').length > 2")
    assert page.run("performance.getEntriesByType('resource').every((r) => r.name.startsWith('file:'))")
    print(f"{len(list(site.rglob('*.html')))} pages; the search finds:", page.text(".md-search-result__meta"))
