"""The report in a real browser: nothing broken, nothing wider than the page, and paper that can be read."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from simulated_study import ENCODERS, Simulated, write_study

from g2l.evaluation.report.make import make_report

pytestmark = pytest.mark.slow

# Says of the page what a reader would see: pictures that did not load, and what sticks out at the right.
PROBE = """<script>
addEventListener("load", () => {
const broken = [...document.images].filter(i => !i.complete || i.naturalWidth === 0).length;
const wide = document.documentElement.clientWidth;
const inside = e => e.closest(".wide") && getComputedStyle(e.closest(".wide")).overflowX === "auto";
const right = e => e.getBoundingClientRect().right;
const out = [...document.querySelectorAll("body *")].filter(e => right(e) > wide + 1 && !inside(e));
document.title = JSON.stringify({images: document.images.length, broken: broken, wide: wide,
  scroll: document.documentElement.scrollWidth, out: out.map(e => e.outerHTML.slice(0, 80))});
});
</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no browser: install chromium to have the report rendered")
    return found


def run(browser: str, profile: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    done = subprocess.run(
        [*command, "--enable-logging=stderr", *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine encoders with names as long as those of checkpoints, on every kind of task; a class of a long name."""
    folder = tmp_path_factory.mktemp("crowded")
    more = [Simulated(f"simulated-vit-large-patch14-reg4-step{n}0000", 1 + 0.1 * n, 300.0 + n, 30.0) for n in range(4)]
    results = write_study(folder, (*ENCODERS, *more))
    long = "simulated_breast_cohort_" + 4 * "with_a_name_that_nobody_shortened_"
    results = [replace(r, task=long) if r.task == "breast biopsies" else r for r in results]
    make_report(results, folder / "report", resamples=30)
    return folder / "report"


@pytest.mark.parametrize("width", [1280, 700])
def test_nothing_is_broken_and_nothing_sticks_out(crowded: Path, browser: str, tmp_path: Path, width: int) -> None:
    html = (crowded / "report.html").read_text(encoding="utf-8")
    html = re.sub(r"<meta http-equiv=.Content-Security-Policy.[^>]*>", "", html)
    (tmp_path / "probed.html").write_text(html.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    address = (tmp_path / "probed.html").as_uri()
    done = run(
        browser, tmp_path / "profile", f"--window-size={width},900", "--virtual-time-budget=5000", "--dump-dom", address
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None
    seen = json.loads(unescape(title[1]))
    assert seen["images"] > 100 and seen["broken"] == 0
    assert seen["scroll"] <= seen["wide"] and seen["out"] == []


def test_the_page_as_it_is_brings_no_complaint_of_the_browser(crowded: Path, browser: str, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    done = run(browser, tmp_path / "profile", f"--screenshot={picture}", (crowded / "report.html").as_uri())
    assert "CONSOLE" not in done.stderr
    from PIL import Image

    with Image.open(picture) as image:
        assert len(set(image.convert("L").resize((64, 64)).tobytes())) > 10, "the page is blank"


def test_printing_gives_pages_of_paper(crowded: Path, browser: str, tmp_path: Path) -> None:
    paper = tmp_path / "report.pdf"
    run(
        browser,
        tmp_path / "profile",
        "--no-pdf-header-footer",
        f"--print-to-pdf={paper}",
        (crowded / "report.html").as_uri(),
    )
    content = paper.read_bytes()
    pages = len(re.findall(rb"/Type\s*/Page\b(?!s)", content))
    assert content.startswith(b"%PDF") and 10 <= pages <= 60
    # A4 in points
    assert re.search(rb"/MediaBox\s*\[\s*0 0 59[45](\.\d+)? 84[12](\.\d+)?\s*\]", content)
