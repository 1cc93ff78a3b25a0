"""The report as a live page: editions, conditional requests, who may ask, and what it says when things go wrong."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

import analysis
from analysis.cli.program import main
from analysis.errors import NotBegun, SweepNotFound
from analysis.runs.store import find
from analysis.show import serve
from analysis.show.serve import LivePage, Server
from gcp_core.errors import ConfigError, DataError
from tests.analysis.synthetic import baseline_trial, some_trials, write_sweep


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Changing:
    """A sweep's table that tests change; counts how often it is read and a page is made of it."""

    def __init__(self, df) -> None:
        self.df, self.read_times, self.made = df, 0, 0
        self.fails: Exception | None = None

    def read(self):
        self.read_times += 1
        if self.fails is not None:
            raise self.fails
        return self.df

    def make(self, df) -> str:
        self.made += 1
        return f"<html><body><p>{len(df)} rows</p></body></html>"


@pytest.fixture
def changing(df) -> Changing:
    return Changing(df)


@contextlib.contextmanager
def serving(live: LivePage, host: str = "127.0.0.1") -> Iterator[Server]:
    with Server(live, host, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(
    server: Server, path: str = "/", method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request(
        method, path, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), content


def test_the_page_is_made_anew_only_when_the_sweep_has_news(changing: Changing) -> None:
    clock = Clock()
    live = LivePage("x", changing.read, changing.make, clock)
    first = live.current()
    clock.now = 100.0
    assert live.current().name == first.name
    assert (changing.read_times, changing.made) == (2, 1)
    changing.df = changing.df.iloc[:-1]
    clock.now = 200.0
    later = live.current()
    assert later.name != first.name
    assert f"{len(changing.df)} rows".encode() in later.body
    assert changing.made == 2


def test_a_sweep_is_looked_at_for_a_tenth_of_the_time_and_at_least_every_minute(changing: Changing) -> None:
    clock, spent = Clock(), Clock()
    live = LivePage("x", changing.read, changing.make, clock, spent)
    for _ in range(100):
        live.current()
    assert changing.read_times == 1
    honest = changing.read

    def slow():
        spent.now += 4.0 if changing.read_times == 1 else 100.0
        return honest()

    live._read = slow
    for clock.now, times in ((10.0, 2), (15.0, 2), (45.0, 2), (47.0, 3), (100.0, 3), (108.0, 4)):
        live.current()
        assert changing.read_times == times


def test_whoever_has_the_edition_is_told_so_without_the_page(changing: Changing) -> None:
    with serving(LivePage("x", changing.read, changing.make)) as server:
        status, headers, body = ask(server)
        assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert b"rows</p>" in body
        assert body.rstrip().endswith(b"</body></html>")
        assert ask(server, If_None_Match=headers["ETag"])[0::2] == (304, b"")
        assert ask(server, If_None_Match='"other"')[0] == 200
        news = json.loads(ask(server, "/news")[2])
        assert f'"{news["edition"]}"' == headers["ETag"]
        assert news["said"] == "the sweep has ended: 24 finished trials"
        status, headers, body = ask(server, method="HEAD")
        assert (status, body) == (200, b"")
        assert int(headers["Content-Length"]) > 0


def test_nothing_but_the_page_is_served(changing: Changing) -> None:
    with serving(LivePage("x", changing.read, changing.make)) as server:
        for path in ("/sweep.json", "/../sweep.json", "/report/front.csv"):
            assert ask(server, path)[0] == 404
        assert ask(server, method="POST")[0] == 501


def test_on_loopback_a_foreign_name_is_refused_so_that_no_other_page_can_read_it(changing: Changing) -> None:
    with serving(LivePage("x", changing.read, changing.make)) as server:
        port = server.server_port
        for host in ("127.0.0.1", f"127.0.0.1:{port}", "localhost", f"localhost:{port}", f"[::1]:{port}"):
            assert ask(server, Host=host)[0] == 200, host
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", ""):
            assert ask(server, Host=host)[0] == 403, host


def test_a_server_listens_on_loopback_unless_told(changing: Changing) -> None:
    live = LivePage("x", changing.read, changing.make)
    with Server(live, port=0) as server:
        assert server.server_address[0] == "127.0.0.1"
        assert server.url == f"http://127.0.0.1:{server.server_port}/"
    with Server(live, "0.0.0.0", 0) as server:
        assert server.url == f"http://{socket.gethostname()}:{server.server_port}/"


def test_a_port_in_use_and_an_address_that_is_not_ours_are_errors(changing: Changing) -> None:
    live = LivePage("x", changing.read, changing.make)
    with Server(live, port=0) as server, pytest.raises(ConfigError, match="cannot listen on 127"):
        Server(live, port=server.server_port)
    with pytest.raises(ConfigError, match="cannot listen on 192"):
        Server(live, "192.0.2.1", 0)
    with pytest.raises(ConfigError, match="cannot listen on no"):
        Server(live, "no.such.host.invalid", 0)


def test_a_sweep_that_has_not_begun_is_waited_for_on_the_page(changing: Changing) -> None:
    clock = Clock()
    changing.fails = NotBegun("has no trials yet", "x")
    live = LivePage("<b>x</b>", changing.read, changing.make, clock)
    waiting = live.current()
    assert b"&lt;b&gt;x&lt;/b&gt; has no trials yet." in waiting.body
    assert waiting.said == "waiting"
    changing.fails, clock.now = None, 10.0
    assert b"rows</p>" in live.current().body


def test_a_sweep_that_cannot_be_read_any_more_keeps_its_last_page_and_says_so(changing: Changing) -> None:
    clock = Clock()
    live = LivePage("x", changing.read, changing.make, clock)
    before = live.current()
    for error in (DataError("no answer", "x"), OSError("no route"), ValueError("odd")):
        changing.fails, clock.now = error, clock.now + 100.0
        now = live.current()
        assert (now.name, now.body, now.trouble) == (before.name, before.body, True)
        assert now.said.startswith("the sweep cannot be read; this is its last state: ")
    changing.fails, clock.now = None, clock.now + 100.0
    assert not live.current().trouble


def test_what_is_gone_at_the_start_is_an_error() -> None:
    def gone():
        raise SweepNotFound("no such folder", "x")

    with pytest.raises(SweepNotFound):
        LivePage("x", gone, lambda df: "")


def test_markup_in_what_the_bar_says_is_text(changing: Changing) -> None:
    changing.df.attrs["sweeps"] = [{"name": "<script>alert(1)</script>", "running": True}]
    body = LivePage("x", changing.read, changing.make).current().body
    assert b"<script>alert" not in body
    assert b"&lt;script&gt;alert(1)&lt;/script&gt; still runs: 24 finished trials" in body


def test_the_served_page_is_the_report(sweep) -> None:
    from analysis.show import report

    live = LivePage("x", lambda: analysis.load(sweep), report.html)
    body = live.current().body.decode()
    assert report.html(analysis.load(sweep)).partition("</body>")[0][:2000] in body
    assert 'id="live"' in body


def test_a_running_sweep_is_said_to_run(tmp_path) -> None:
    write_sweep(tmp_path / "now", [baseline_trial(), *some_trials(3)], running=True)
    live = LivePage("now", lambda: analysis.load(tmp_path / "now"), lambda df: "<body></body>")
    assert live.current().said == "now still runs: 3 finished trials"


def test_a_folder_whose_driver_has_not_written_its_entry_has_not_begun(tmp_path) -> None:
    with pytest.raises(SweepNotFound) as caught:
        find(tmp_path)
    assert not isinstance(caught.value, NotBegun)
    (tmp_path / "run.lock").write_text("")
    with pytest.raises(NotBegun):
        find(tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["SWEEP", "--serve", "--json"], "--serve writes nothing"),
        (["SWEEP", "--serve", "--publish"], "--serve writes nothing"),
        (["SWEEP", "--serve", "--out", "x"], "--serve writes nothing"),
        (["SWEEP", "--port", "80"], "--port and --host need --serve"),
        (["SWEEP", "--serve", "--port", "70000"], "70000 is not in the range"),
        (["nowhere", "--serve"], "no such folder"),
        (["SWEEP", "--serve", "--where", "mac <= 50%"], 'did you mean "macs"?'),
    ],
)
def test_bad_usage_is_exit_code_2(sweep, words: list[str], message: str) -> None:
    done = CliRunner().invoke(main, ["report", *(str(sweep) if word == "SWEEP" else word for word in words)])
    assert done.exit_code == 2, done.output
    assert message in done.stderr


def test_a_port_in_use_is_one_line_and_exit_code_2(sweep, changing: Changing, monkeypatch) -> None:
    monkeypatch.setattr(serve, "LivePage", lambda *rest: LivePage("x", changing.read, changing.make))
    with Server(LivePage("x", changing.read, changing.make), port=0) as server:
        done = CliRunner().invoke(main, ["report", str(sweep), "--serve", "--port", str(server.server_port)])
    assert done.exit_code == 2
    assert "--port 0 takes a free port" in done.stderr
    assert len(done.stderr.splitlines()) == 1
