"""The report in a real browser: no complaint, links, filters, brushing, keyboard, sizes, and names with HTML in them.

Skipped where Playwright or a Chromium is missing (Debian: apt-get install chromium; another place: CHROMIUM=/path).
"""

import os
import shutil

import pytest

from analysis import text
from analysis.front import pareto
from analysis.show import report
from tests.analysis.show import tables

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install playwright"
)

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PROGRAM = os.environ.get("CHROMIUM") or next((p for p in map(shutil.which, NAMES) if p), None)
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium here: apt-get install chromium"),
]

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
HTML = "<img src=x onerror='window.hit=1'></script><!--<script>"


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as play:
        running = play.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def opened(browser, tmp_path):
    """A function that opens the page of a table; whatever the page complains about or asks for fails the test."""
    complaints, contexts = [], []

    def open_page(df, **how):
        file = tmp_path / "report.html"
        file.write_text(report.html(df), encoding="utf-8")
        context = browser.new_context(**({"viewport": WIDE} | how))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda r: complaints.append(r.url) if not r.url.startswith(("file:", "data:")) else None,
        )
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(scope="module")
def df(tmp_path_factory):
    return tables.paths(tmp_path_factory.mktemp("paths") / "paths")


def shown(page, words):
    """Wait until the page says so about the models that pass."""
    page.wait_for_function("words => $('shown').textContent.startsWith(words)", arg=words)


def in_table(page):
    return set(
        page.eval_on_selector_all(
            "#rows tbody tr:not(.baseline) th", "found => found.map(e => e.textContent)"
        )
    )


def test_the_first_screen_names_the_model_what_it_saves_and_the_command(opened, df):
    page = opened(df)
    card = page.inner_text(".first .card")
    # The cheapest within a point of 97 % is 96.2 % at 35 % of the MACs.
    for words in (
        "RECOMMENDED, NOT CONFIRMED",
        "t0001@3",
        "96.20 %",
        "0.80 points below",
        "65.0 % fewer",
        "not measured",
    ):
        assert words in card
    export = page.locator(".next .command", has_text="gcp-analyze export")
    box = export.bounding_box()
    assert box["y"] + box["height"] < WIDE["height"], "without scrolling"
    assert "t0001@3" in page.inner_text("#plot-front")
    assert "default choice" in page.inner_text("#legend")
    bars = page.eval_on_selector_all(".savings .bar span", "found => found.map(e => e.style.width)")
    assert bars == ["65%", "65%"], "what is removed, as the words beside it say"
    assert "Trial t0001, after its 3rd pruning step; trained for 10 epochs" in card


def test_on_a_narrow_screen_the_steps_follow_the_card_and_commands_are_whole(opened, df):
    page = opened(df, viewport=NARROW)
    tops = [page.locator(name).bounding_box()["y"] for name in (".card", ".next", ".picture")]
    assert tops == sorted(tops)
    cut = "found => found.filter(e => e.scrollWidth > e.clientWidth).length"
    assert page.eval_on_selector_all(".next .command code", cut) == 0


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_a_measured_latency_stays_inside_the_card(opened, tmp_path, size):
    """Its words are the longest ones of the card."""
    shown = tables.result("t0001@3", timed=[tables.line(median_ms=0.1421, reference_ms=0.1612)])
    tables.put(tmp_path / "own" / "bench", shown)
    page = opened(tables.paths(tmp_path / "own"), viewport=size)
    card, table = (page.locator(name).bounding_box() for name in (".card", ".savings"))
    assert "0.142 of 0.161 ms, batch 1" in page.inner_text(".savings")
    assert table["x"] + table["width"] < card["x"] + card["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]


def test_the_name_of_the_choice_hides_no_point_and_the_compared_model_is_marked(opened, df):
    for size in (WIDE, NARROW):
        page = opened(df, viewport=size)
        hidden = page.evaluate(
            """() => {
              const box = document.querySelector('.chosen-name').getBBox();
              const inside = (v, from, long) => v > from && v < from + long;
              return F.points.filter(p => inside(p.x, box.x, box.width) && inside(p.y, box.y, box.height)).length;
            }"""
        )
        assert hidden == 0
        sure = page.inner_text(".card")
        other = page.evaluate("D.compared")
        assert page.locator("svg .compared").count() == bool(other)
        assert other in sure


def test_the_front_that_is_drawn_is_the_front(opened, df):
    page = opened(df)
    drawn = page.evaluate("F.front.map(r => r.model)")
    assert set(drawn) == set(pareto.distinct(df, df.attrs["objectives"])["model"]) == in_table(page)
    page.uncheck("#f-only")
    page.wait_for_function("document.querySelectorAll('#rows tbody tr').length === 16")
    assert page.evaluate("F.points.length") == 16, "every model and the baseline can be pointed at"


def test_counts_look_as_they_do_in_every_other_table(opened, df):
    counts = [0.5, 7, 999, 999.6, 1234, 999_499, 999_700, 999.7e6, 1.5e9, 1.234e12]
    assert opened(df).evaluate("counts => counts.map(count)", counts) == [text.count(v) for v in counts]


def test_a_model_below_the_view_is_counted_and_can_be_brought_into_it(opened, df):
    page = opened(df)
    assert "1 model below this view, down to 40.0 %" in page.inner_text("#front-notes")
    page.check("#f-whole")
    page.wait_for_function("!$('front-notes').textContent.includes('below this view')")


def test_filters_keep_the_same_models_in_picture_and_table_and_are_cleared(opened, df):
    page = opened(df)
    page.uncheck("#f-only")
    page.locator("#f-macs").fill("50")
    shown(page, "9 of 15 models pass (MACs at most 50 %)")
    page.select_option("#f-name", "prune.criterion")
    page.select_option("#f-value", "l1")
    shown(page, "3 of 15 models pass")
    assert in_table(page) == {"t0001@2", "t0001@3", "t0001@4"}
    assert set(page.evaluate("F.front.map(r => r.model)")) == {"t0001@3", "t0001@4"}
    page.click("#f-clear")
    shown(page, "15 of 15 models pass,")


def test_a_range_on_an_axis_and_one_on_the_front_are_linked(opened, df):
    page = opened(df)
    page.uncheck("#f-only")
    page.wait_for_function("document.querySelectorAll('#rows tbody tr').length === 16")
    grip = page.locator(".grip[data-axis=val_accuracy]")
    grip.scroll_into_view_if_needed()
    low, high = page.evaluate("(a => [a.at(96), a.at(97)])(P.axes.find(a => a.name === 'val_accuracy'))")
    box = page.locator("#plot-parallel svg").bounding_box()
    x = grip.bounding_box()["x"] + 15
    page.mouse.move(x, box["y"] + high)
    page.mouse.down()
    page.mouse.move(x, box["y"] + low + 1, steps=4)
    page.mouse.up()
    shown(page, "7 of 15 models pass (val acc %")
    assert in_table(page) == {"t0000@0", "t0000@1", "t0000@2", "t0001@0", "t0001@1", "t0001@2", "t0001@3"}
    page.mouse.click(x, box["y"] + low - 4)
    shown(page, "15 of 15")
    page.evaluate("scrollTo(0, 0)")
    front = page.locator("#plot-front svg").bounding_box()
    x0, x1, y0, y1 = page.evaluate(
        "[F.scales.atX(1.2e6), F.scales.atX(2.2e6), F.scales.atY(96.5), F.scales.atY(95)]"
    )
    page.mouse.move(front["x"] + x0, front["y"] + y0)
    page.mouse.down()
    page.mouse.move(front["x"] + x1, front["y"] + y1, steps=4)
    page.mouse.up()
    shown(page, "4 of 15 models pass")
    assert in_table(page) == {"t0000@2", "t0000@3", "t0001@2", "t0001@3"}


def test_a_click_on_a_point_shows_the_model_in_row_line_and_course(opened, df):
    page = opened(df)
    page.uncheck("#f-only")
    at = page.evaluate("(p => [p.x, p.y])(F.points.find(p => p.r.model === 't0000@3'))")
    page.locator("#plot-front svg").click(position={"x": at[0], "y": at[1]})
    page.wait_for_function("$('detail').textContent.startsWith('t0000@3')")
    assert page.inner_text("tr.selected th") == "t0000@3"
    assert page.get_attribute(".run.selected", "d")
    assert page.input_value("#f-course") == "paths/t0000"
    said = " ".join(page.inner_text("#detail").split())
    assert "test accuracy 94.40 %" in said, "reported, and nothing more"
    assert "macs removed 65.0 %" in said
    assert "accuracy drop 1.60 points" in said
    assert "test" not in page.inner_text("#rows thead"), "no table is sorted by it"


def test_everything_is_reached_by_the_keyboard(opened, df):
    page = opened(df)
    page.focus("#plot-front")
    order = page.evaluate("F.front.map(r => r.key)")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("S.selected") in order
    page.focus(".grip[data-axis=val_accuracy]")
    page.keyboard.press("ArrowUp")
    shown(page, "14 of 15 models pass")
    assert page.evaluate("document.activeElement.dataset.axis") == "val_accuracy", "it keeps the keyboard"
    page.keyboard.press("Escape")
    shown(page, "15 of 15")
    page.focus("#rows thead button[data-n=val_accuracy]")
    page.keyboard.press("Enter")
    cells = page.eval_on_selector_all(
        "#rows tbody tr td:nth-child(2)", "found => found.map(e => +e.textContent)"
    )
    assert cells == sorted(cells)
    assert page.evaluate("document.activeElement.dataset.n") == "val_accuracy"
    page.focus("#rows tbody tr")
    page.keyboard.press("ArrowDown")
    second = page.inner_text("#rows tbody tr:nth-child(2) th")
    assert page.inner_text("#detail").startswith(second)


def test_colours_follow_a_parameter_in_the_picture_and_its_legend(opened, df):
    page = opened(df)
    page.select_option("#f-colour", "prune.criterion")
    page.wait_for_function("$('legend').textContent.includes('random')")
    assert page.locator("#plot-front .dot.best.c1").count() == 1
    page.select_option("#f-colour", "val_accuracy")
    page.wait_for_function("$('legend').textContent.includes(' to ')")


def test_courses_show_events_and_snapshots_and_layers_stand_side_by_side(opened, df):
    page = opened(df)
    assert page.locator("#plot-courses .event").count() == 4, "between five cycles"
    labels = page.inner_text("#plot-courses")
    for words in ("@0", "@4", "\u221230 %"):
        assert words in labels
    page.locator("#compared select").select_option(label=page.locator("#compared option").nth(1).inner_text())
    heads = page.eval_on_selector_all(".widths thead th", "found => found.map(e => e.firstChild.textContent)")
    assert heads[:2] == ["layer", "unpruned"]
    assert len(heads) >= 4
    chosen = heads.index("t0001@3")
    cells = page.eval_on_selector_all(
        ".widths tbody tr:first-child > *", "found => found.map(e => e.textContent)"
    )
    # Three events of six channels each.
    assert (cells[0], cells[1], cells[chosen].split()[0]) == ("features.0", "32", "14")


@pytest.mark.parametrize("how", [{"viewport": WIDE}, {"viewport": NARROW}, {"color_scheme": "dark"}])
def test_the_page_is_as_wide_as_the_window_and_is_drawn_anew_with_it(opened, df, how):
    page = opened(df, **how)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    before = page.get_attribute("#plot-front svg", "width")
    page.set_viewport_size({"width": 700, "height": 800})
    page.wait_for_function(
        "before => document.querySelector('#plot-front svg').getAttribute('width') !== before", arg=before
    )
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper != "rgb(255, 255, 255)") == (how.get("color_scheme") == "dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.is_visible(".filters >> nth=0")


def test_html_in_names_parameters_and_errors_is_text(opened, tmp_path):
    rows = [baseline := tables.baseline(), *tables.rows_of("t0000", tables.PATHS["t0000"])]
    rows += tables.rows_of("t0001", tables.PATHS["t0001"])
    for row in rows[1:]:
        row["prune.criterion"] = HTML if row["trial"] == "t0000" else "l1"
        row[f"prune.{HTML}"] = row["level"]
        row["model"] = f"{HTML}{row['model']}"
    rows.append(
        {**rows[1], "model": "bad", "trial": "t0009", "status": "failed", "error": HTML, "level": None}
    )
    df = tables.of_rows(tmp_path / "own", rows, runs=False)
    df.attrs["sweeps"][0]["name"] = df["sweep"] = HTML
    assert baseline["model"] == "b0000"
    page = opened(df)
    page.select_option("#f-colour", "prune.criterion")
    page.focus("#plot-front")
    page.keyboard.press("ArrowRight")
    page.uncheck("#f-only")
    page.wait_for_function("document.querySelectorAll('#rows tbody tr').length === 11")
    assert page.inner_text("h1") == HTML
    assert page.locator("img").count() == 0
    assert page.evaluate("window.hit") is None
    assert HTML in page.inner_text("#detail")
    assert HTML in page.inner_text("#health")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([tables.baseline()], "No model is finished"),
        ([tables.baseline(), *tables.rows_of("t0000", tables.PATHS["t0000"])[1:2]], "t0000@1"),
        (tables.rows_of("t0000", tables.PATHS["t0000"]), "No baseline has finished"),
        ([{**tables.baseline(), "kind": "trial", "status": "failed", "error": "ValueError: no"}], "No model is finished"),
    ],
)  # fmt: skip
def test_a_sweep_with_little_or_nothing_in_it_has_a_page_that_says_so(opened, tmp_path, rows, words):
    page = opened(tables.of_rows(tmp_path / "own", rows, runs=False))
    assert words in page.inner_text("body")


def test_links_lead_to_files_beside_the_page_and_to_runs(df, tmp_path, opened):
    written = report.write(df, tmp_path / "report")
    page = opened(df)
    page.goto(written.page.as_uri())
    links = page.eval_on_selector_all("a", "found => found.map(a => a.getAttribute('href'))")
    files = [link for link in links if not link.startswith("http")]
    assert len(files) >= 10
    assert all((written.page.parent / link).is_file() for link in files)
    assert "http://127.0.0.1:5000/#/experiments/1/runs/runt00013" in links
