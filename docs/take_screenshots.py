"""Takes the pictures of docs/tensorboard.md and docs/report.md of a run that has ended.

python -m docs.take_screenshots RUN
"""

import io
import pathlib
import sys

from PIL import Image

from tests import browser
from trainer.report import page, runs

HERE = pathlib.Path(__file__).parent / "images"
SHOWN = ("custom_scalars", "images", "pr_curves", "hparams", "graphs")
SETTLED = 4000  # milliseconds until curves and pictures are drawn
COLOURS = 200


def save(name: str, png: bytes) -> None:
    """Writes a picture of few colours, which is small."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        HERE / f"{name}.png", optimize=True
    )


def main(run_dir: pathlib.Path) -> None:
    """Opens each tab, and the report, and takes its picture."""
    report = run_dir / "report.html"
    report.write_text(page.draw([runs.read(str(run_dir), 2)]), encoding="utf-8")
    with browser.chromium() as chromium, browser.tensorboard(run_dir / "tensorboard") as address:
        for tab in SHOWN:
            shown = browser.open_tab(chromium, address, tab)
            shown.wait_for_timeout(SETTLED)
            save(f"tensorboard_{tab}", shown.screenshot())
            shown.close()
        shown = chromium.new_page(viewport={"width": 1300, "height": 1000})
        shown.goto(report.resolve().as_uri())
        save("report", shown.screenshot())
        shown.locator("h3", has_text="Scores").scroll_into_view_if_needed()
        shown.evaluate("document.querySelectorAll('h3')[0].scrollIntoView()")
        shown.wait_for_timeout(SETTLED)
        save("report_cases", shown.screenshot())


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
