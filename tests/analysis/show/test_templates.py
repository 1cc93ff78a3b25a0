"""The templates are files that people read and change: whole statements, closed brackets, closed elements."""

import fnmatch
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import UndefinedError

import analysis
from analysis.show import page, report

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "analysis/show/templates"
#: Elements that have no end tag.
VOID = {"meta", "link", "input", "img", "br"}

# A string, template literal, regular expression or comment: what stands inside is not code.
TOKEN = re.compile(
    r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|`(?:[^`\\]|\\.)*`|//[^\n]*|(?<=\()/(?:[^/\\\n]|\\.)+/\w*"""
)


def code_of(script: str) -> str:
    """The script with every string, regular expression and comment emptied; lines stay where they are."""
    return TOKEN.sub(lambda found: "''" + "\n" * found[0].count("\n"), script)


def faults(script: str) -> list[str]:
    """What a formatter for another language leaves behind in JavaScript, as sentences with line numbers."""
    found = [
        f"line {script[: t.start()].count(chr(10)) + 1}: a line break inside a string"
        for t in TOKEN.finditer(script)
        if "\n" in t[0]
    ]
    stack: list[str] = []
    for number, line in enumerate(code_of(script).splitlines(), 1):
        if re.search(r"['\"`]", line.replace("''", "")):
            found.append(f"line {number}: a string that does not end")
        # `{ a(); b(); }` on one line is one thought; `for (;;)` never stands here.
        flat = re.sub(r"\{[^{}]*\}", "{}", line)
        if re.search(r";\s*\S", flat):
            found.append(f"line {number}: a second statement begins")
        for sign in re.findall(r"[()\[\]{}]", line):
            if sign in "([{":
                stack.append(sign)
            elif not stack or stack.pop() + sign not in ("()", "[]", "{}"):
                found.append(f"line {number}: {sign} closes nothing")
    return found + [f"{sign} is never closed" for sign in stack]


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.js")))
def test_the_script_has_whole_statements_whole_strings_and_closed_brackets(name):
    assert faults(page.source(name)) == []


@pytest.mark.parametrize(
    ("damaged", "fault"),
    [
        ("a(); const b =\n  2;\n", "line 1: a second statement begins"),
        ("const a = `one of\n  them`;\n", "line 1: a line break inside a string"),
        ("const a = 'one of\n  them';\n", "line 1: a string that does not end"),
        ("f({a: [1, 2}]);\n", "line 1: } closes nothing"),
        ("function f() {\n  g();\n", "{ is never closed"),
    ],
)
def test_damage_is_noticed(damaged, fault):
    assert fault in faults(damaged)


def test_the_style_has_one_rule_a_line_or_one_declaration_a_line():
    depth = 0
    for number, line in enumerate(page.source("style.css").splitlines(), 1):
        assert not re.search(r"\}\s*[^}\s]", line), f"line {number}: a second rule begins"
        opened, closed = line.count("{"), line.count("}")
        if depth and not opened and line.strip() not in ("", "}"):
            assert re.fullmatch(r"\s+[\w-]+: [^;]+;", line), f"line {number}: {line}"
        depth += opened - closed
        assert depth >= 0, f"line {number}"
    assert depth == 0


class _Balance(HTMLParser):
    """Every element that is opened is closed, in order."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.wrong = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append((tag, self.getpos()))


def test_every_element_of_the_report_is_closed(sweep, tmp_path):
    text = report.write(analysis.load(sweep), tmp_path).page.read_text()
    parser = _Balance()
    parser.feed(text)
    assert (parser.wrong, parser.open) == ([], [])
    assert "{{" not in text.split("<script")[0]
    assert "{%" not in text.split("<script")[0]


def test_a_value_that_a_template_names_and_nobody_gives_is_an_error():
    with pytest.raises(UndefinedError, match="names"):
        page.render("compare.html", "title")


def test_values_are_escaped_but_our_own_style_and_script_are_not():
    text = page.render("frame.html", "<script>'&'")
    assert "<title>&lt;script&gt;&#39;&amp;&#39;</title>" in text
    assert page.source("style.css").strip() in text


def test_an_installation_brings_every_template_along():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["analysis.show"]
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert len(files) >= 6
    for path in files:
        name = path.relative_to(FOLDER.parent).as_posix()
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), name


def test_numbers_stand_to_the_right_and_text_to_the_left():
    header = ["model", "accuracy", "range", "MACs", "nothing", "mixed"]
    rows = [["t0001@2", "97.92", "95.8-99.0", "1.23 M", "-", "0.3"], ["b0000", "-", "-", "600 k", "", "none"]]
    assert page.Table(header, rows).right == [False, True, True, True, False, False]


def test_data_cannot_end_the_script_that_holds_them_nor_keep_it_open():
    # "<!--<script>" would make the browser read past the next "</script>".
    data = {"word": "</script><!--<script>"}
    assert page.payload(data) == '{"word":"\\u003c/script>\\u003c!--\\u003cscript>"}'
