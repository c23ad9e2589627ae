"""A run's TensorBoard and its report, opened in a real browser."""

import importlib.util
import json
import shutil
import urllib.request

import pytest

from tests import browser
from tests.jobs import command, train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(bool(browser.missing()), reason=f"needs {browser.missing()}"),
]


@pytest.fixture(scope="module")
def run_dir(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "watched"
    pictures = ["--panels=4", "--worst_panels=4", "--worst_cases=8", "--best_cases=4"]
    result = train(data_dir, folder, "--histograms", "--profile=3,4", *pictures)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium() as found:
        yield found


def test_every_tab_of_tensorboard_shows_the_run(run_dir, chromium):
    with browser.tensorboard(run_dir / "tensorboard") as address:
        for tab in browser.TABS:
            browser.open_tab(chromium, address, tab).close()
        page = browser.open_tab(chromium, address, "timeseries")
        groups = page.locator(".group-title").all_inner_texts()
        with urllib.request.urlopen(f"{address}data/plugins_listing") as answer:
            plugins = json.load(answer)
    assert [name for name in groups if name != "Pinned"][:2] == ["loss", "scores"]
    active = {name for name, plugin in plugins.items() if plugin["enabled"]}
    assert active >= {"scalars", "images", "histograms", "hparams", "pr_curves", "custom_scalars"}
    assert len(list(run_dir.glob("tensorboard/plugins/profile/*/*.xplane.pb"))) == 1


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard_plugin_profile") is None,
    reason="needs the extra [profile]",
)
def test_the_profile_tab_shows_the_traced_steps(run_dir, chromium):
    (plane,) = run_dir.glob("tensorboard/plugins/profile/*/*.xplane.pb")
    host = plane.name.removesuffix(".xplane.pb")
    with browser.tensorboard(run_dir / "tensorboard") as address:
        page, _ = browser.open_trace(chromium, address, plane.parent.name, host)
        browser.wait_for(page, "of 2")  # steps 3 and 4


def test_the_report_that_a_job_writes_opens_without_a_network(run_dir, chromium):
    page = chromium.new_page()
    requests = []
    page.on("request", lambda request: requests.append(request.url.split(":")[0]))
    page.goto((run_dir / "report.html").as_uri())
    assert page.locator("svg").count() >= 10
    pictures = page.locator("img")
    assert pictures.count() == 6  # of three test cases, as worst and best
    page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    for place in range(6):
        pictures.nth(place).scroll_into_view_if_needed()
    page.wait_for_function("[...document.images].every(image => image.naturalWidth > 100)")
    assert set(requests) <= {"file", "data"}


def test_a_click_on_a_case_of_the_report_shows_it_in_full(run_dir, chromium):
    page = chromium.new_page(viewport={"width": 300, "height": 800})
    page.goto((run_dir / "report.html").as_uri())
    picture = page.locator("img").first
    width = picture.evaluate("image => image.naturalWidth")
    assert picture.bounding_box()["width"] < 300 < width
    picture.click()
    assert picture.bounding_box()["width"] == width


def test_cases_of_the_report_are_beside_each_other_where_there_is_room(run_dir, chromium):
    page = chromium.new_page(viewport={"width": 1400, "height": 1000})
    page.goto((run_dir / "report.html").as_uri())

    for width, media, columns in ((1400, "screen", 2), (718, "print", 2), (400, "screen", 1)):
        page.set_viewport_size({"width": width, "height": 1000})
        page.emulate_media(media=media)
        first, second = (page.locator("img").nth(place).bounding_box() for place in range(2))
        assert len({first["x"], second["x"]}) == columns
        assert (first["y"] == second["y"]) == (columns == 2)


def test_the_report_fits_a_phone_and_its_print_a_page(run_dir, chromium, tmp_path):
    long = tmp_path / ("a_folder_with_a_name_that_is_longer_than_the_screen_of_a_phone" * 2)
    shutil.copytree(run_dir, long)
    result = command("trainer.report", str(long), str(run_dir), f"--output={long}/both.html")
    assert result.returncode == 0, result.stderr
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    for path in (run_dir / "report.html", long / "both.html"):
        phone = chromium.new_page(viewport={"width": 400, "height": 800})
        phone.goto(path.as_uri())
        assert phone.evaluate(overflow) == 0
        table = phone.locator(".scroll").first
        assert table.evaluate("box => box.scrollWidth > box.clientWidth")  # and can be scrolled
        paper = chromium.new_page(viewport={"width": 718, "height": 1000})  # A4 less its margins
        paper.emulate_media(media="print")
        paper.goto(path.as_uri())
        assert paper.evaluate(overflow) == 0
