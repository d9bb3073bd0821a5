"""A page in a real browser, opened from its file, that complains of nothing and asks no network for anything."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSER_VARIABLE = "FECLIP_TEST_BROWSER"
"""Environment variable: path of a Chromium, where it is not `chromium` on the path."""


def browser_program() -> str:
    """Return the browser's program, or skip the test that asks."""
    program = os.environ.get(BROWSER_VARIABLE) or shutil.which("chromium")
    if program is None:
        pytest.skip(f"no browser: install Debian's chromium, or set {BROWSER_VARIABLE} to a Chromium")
    return program


@contextmanager
def opened_page(
    browser: "Browser",
    file: Path,
    *,
    fragment: str = "",
    width: int = 1400,
    scheme: Any = "light",  # noqa: ANN401 - a word of Playwright's
) -> Iterator["Page"]:
    """Open a page; a message of its console, an error, a dialog or a request beyond its folder fails the test."""
    complaints: list[str] = []

    def looked_at(url: str) -> None:
        if not url.startswith((file.parent.as_uri(), "data:", "blob:")):
            complaints.append(url)

    def said(text: str) -> None:
        if "GL Driver Message" not in text:  # what the driver thinks of its own speed, where there is no GPU
            complaints.append(text)

    with browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme) as context:
        page = context.new_page()
        page.on("console", lambda message: said(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(request.url))
        page.on("request", lambda request: looked_at(request.url))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.goto(file.as_uri() + fragment)
        page.locator(".main-svg").first.wait_for(state="visible")
        yield page
    assert complaints == []


def check_accessible(page: "Page") -> None:
    """Run axe, which knows what a screen reader trips over."""
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415 - tests without a browser do without

    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
