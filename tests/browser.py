"""A real browser: headless Chromium, driven by Playwright; and TensorBoard as a process."""

import contextlib
import importlib.util
import re
import shutil
import subprocess
import sys
import time

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
SECONDS = 120  # for a page to show something, on a machine with other work

# Tab → what it shows of a run, besides its name.
TABS = {
    "timeseries": "scores/dice",  # of a group that is open
    "scalars": "scores/dice",
    "custom_scalars": "Does it learn?",
    "images": "training_batch",
    "pr_curves": "pr_curves",
    "hparams": "learning_rate",
    "text": "run.json",
    "graphs": "encoder_0",
}


def missing():
    """Returns what a browser needs and is not there; empty if all is."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    needed = {
        "Chromium, on Debian apt-get install chromium": chromium,
        "playwright, of the extra [test]": importlib.util.find_spec("playwright"),
    }
    return "; ".join(name for name, found in needed.items() if not found)


@contextlib.contextmanager
def chromium():
    """Yields a browser."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@contextlib.contextmanager
def tensorboard(logdir):
    """Yields the address of a TensorBoard that shows a folder."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if found := re.search(r"http://localhost:\d+/", line):
                yield found[0]
                return
        raise AssertionError("TensorBoard ended before it served")
    finally:
        process.terminate()
        process.wait()


def open_tab(browser, address, tab, size=(1300, 820)):
    """Returns a page of TensorBoard once it shows what `TABS` says."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.goto(f"{address}#{tab}")
    wait_for(page, TABS[tab])
    return page


def open_trace(browser, address, run, host, size=(1300, 820)):
    """Returns a page of the profile tab's trace viewer, and the frame that shows the trace.

    All threads are shown, and spans `train` searched, which the steps are.
    """
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.goto(f"{address}?run={run}&tag=trace_viewer%40&host={host}#profile")
    wait_for(page, "/host:CPU")
    frame = next(frame for frame in page.frames if "trace_viewer_index" in frame.url)
    frame.get_by_text("Expand All").click()  # or they are not searched
    frame.get_by_placeholder("Find Events").fill("train")
    return page, frame


def wait_for(page, text):
    """Waits until a page shows a text, in whichever of its frames."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for frame in page.frames:
            written = frame.get_by_text(text).all() + frame.locator("svg text", has_text=text).all()
            if any(found.is_visible() for found in written):
                return
        page.wait_for_timeout(200)
    raise AssertionError(f"{page.url} does not show {text!r}")
