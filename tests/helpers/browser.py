"""A headless Chromium for tests of the pages."""

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (package chromium)")
WIDTHS = (1280, 390)  # a desktop and a phone, in CSS pixels


@contextmanager
def browser_page(width: int = 1280, height: int = 900) -> Iterator[tuple[Page, list[str], list[str]]]:
    """Yields a page, the addresses it requested, and its console errors and uncaught exceptions."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
        )
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            requests: list[str] = []
            problems: list[str] = []
            page.on("request", lambda request: requests.append(request.url))
            page.on("console", lambda each: problems.append(each.text) if each.type == "error" else None)
            page.on("pageerror", lambda error: problems.append(str(error)))
            yield page, requests, problems
        finally:
            browser.close()


def overflow(page: Page) -> int:
    """Pixels by which the page is wider than its window; 0 for a page that does not scroll sideways."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def drop_files(page: Page, files: dict[str, bytes]) -> None:
    """Drops files (name -> content) on Gradio's upload field, as a user drags them from a folder."""
    script = """files => {
        const data = new DataTransfer();
        for (const [name, content] of files) {
            data.items.add(new File([Uint8Array.from(atob(content), each => each.charCodeAt(0))], name));
        }
        return data;
    }"""
    data = page.evaluate_handle(script, [(name, base64.b64encode(content).decode()) for name, content in files.items()])
    field = "button:has(input[type=file])"
    page.wait_for_selector(field)
    page.dispatch_event(field, "drop", {"dataTransfer": data})
