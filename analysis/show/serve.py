"""The report as a page that follows its sweep: served over HTTP, made again when the sweep has news.

Nothing is written, and nothing is done until a browser asks. It gets the current edition; a look at the
sweep is taken at most every few seconds, and longer pauses follow looks that take long.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from analysis.errors import NotBegun, NothingFeasible
from analysis.ship import measured
from analysis.show import page
from gcp_core.errors import ConfigError, first_line

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)
HOST, PORT = "127.0.0.1", 8765
#: Seconds between two looks at the sweep: at least, and at most. In between, nine times the processor's time of a look.
EVERY_S, MOST_S, _REST = 5.0, 60.0, 9.0
#: A client that says nothing for so long is let go.
_TIMEOUT_S = 30


@dataclass(frozen=True)
class Edition:
    """The page as it is now, and what its bar says. ``name`` is another one whenever the sweep has news."""

    name: str
    body: bytes
    said: str
    trouble: bool = False


class LivePage:
    """Makes editions.

    Args:
        name: of the sweep, for a page without a report.
        read: the sweep's table as it is now; NotBegun where it has none yet.
        make: the whole page of a table.
        now: a clock in seconds.
        cost: the processor's time of a look, in seconds; a machine that is busy elsewhere does not make it longer.

    Raises:
        GcpError: the sweep cannot be read at all; what goes wrong later stands on the page.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[], pd.DataFrame],
        make: Callable[[pd.DataFrame], str],
        now: Callable[[], float] = time.monotonic,
        cost: Callable[[], float] = time.thread_time,
    ) -> None:
        self._name, self._read, self._make = name, read, make
        self._now, self._cost = now, cost
        self._one_at_a_time = threading.Lock()
        self._edition = self._look(None)
        self._due = now() + EVERY_S

    def current(self) -> Edition:
        """The edition that there is, a newer one if it is time to look and the sweep has news."""
        if self._now() >= self._due and self._one_at_a_time.acquire(blocking=False):
            start = self._cost()
            try:
                self._edition = self._look(self._edition)
            except Exception as exc:  # whatever it is: the last edition stays, and says so
                _log.debug("the sweep cannot be read", exc_info=True)
                said = f"the sweep cannot be read; this is its last state: {first_line(exc)}"
                self._edition = Edition(self._edition.name, self._edition.body, said, trouble=True)
            finally:
                pause_s = max(EVERY_S, min(MOST_S, _REST * (self._cost() - start)))
                self._due = self._now() + pause_s
                self._one_at_a_time.release()
        return self._edition

    def _look(self, before: Edition | None) -> Edition:
        try:
            df = self._read()
        except NotBegun as exc:
            return self._waiting(exc.message)
        name, said = _fingerprint(df), _state(df)
        if before is not None and before.name == name:
            return Edition(name, before.body, said)
        try:
            text = self._make(df)
        except NothingFeasible as exc:
            return self._waiting(f"has nothing to report yet ({exc.message})")
        return Edition(name, _with_bar(text, name, said), said)

    def _waiting(self, why: str) -> Edition:
        name = hashlib.sha256(why.encode()).hexdigest()[:16]
        text = page.render("waiting.html", f"Report: {self._name}", why=f"{self._name} {why}.")
        return Edition(name, _with_bar(text, name, "waiting"), "waiting")


def _fingerprint(df: pd.DataFrame) -> str:
    """Another one whenever a row, a value, a sweep's state or a result of ``bench`` is."""
    benches = [(file.name, file.stat().st_mtime_ns) for file in measured.files(df)]
    known = df.to_csv(index=False) + json.dumps([df.attrs["sweeps"], benches], default=str, sort_keys=True)
    return hashlib.sha256(known.encode()).hexdigest()[:16]


def _state(df: pd.DataFrame) -> str:
    from analysis import text
    from analysis.runs import table
    from analysis.runs.models import word

    counts = table.counts(df)
    models = text.plural(counts["candidates"], f"finished {word(df)}")
    running = [str(entry["name"]) for entry in df.attrs["sweeps"] if entry.get("running")]
    return f"{', '.join(running) or 'the sweep'} {'still runs' if running else 'has ended'}: {models}"


def _with_bar(text: str, name: str, said: str) -> bytes:
    bar = page.render("live.html", "", edition=name, said=said)
    head, end, tail = text.rpartition("</body>")
    return (head + bar + end + tail if end else text + bar).encode()


class _Handler(BaseHTTPRequestHandler):
    """``/`` is the page, ``/news`` says which edition there is; nothing else is served."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "gcp-analyze", ""
    timeout = _TIMEOUT_S

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, body: bool) -> None:
        if not self.server.is_meant(self.headers.get("Host", "")):
            self._send(403, "text/plain", b"another host's name", {}, body)
            return
        path = self.path.partition("?")[0]
        if path not in ("/", "/news"):
            self._send(404, "text/plain", b"there is / only", {}, body)
            return
        now = self.server.page.current()
        if path == "/news":
            news = {"edition": now.name, "said": now.said, "trouble": now.trouble}
            self._send(
                200, "application/json", json.dumps(news).encode(), {"Cache-Control": "no-store"}, body
            )
            return
        tag = {"ETag": f'"{now.name}"', "Cache-Control": "no-cache"}
        if f'"{now.name}"' in self.headers.get("If-None-Match", ""):
            self._send(304, "text/html; charset=utf-8", b"", tag, body)
        else:
            self._send(200, "text/html; charset=utf-8", now.body, tag, body)

    def _send(self, status: int, kind: str, content: bytes, more: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            **more,
        }.items():
            self.send_header(name, value)
        if status != 304:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        _log.debug(format, *arguments)


class Server(ThreadingHTTPServer):
    """Listens on one address as soon as it is made; :meth:`serve_forever` serves.

    Raises ConfigError if it cannot listen there.
    """

    daemon_threads = True

    def __init__(self, live: LivePage, host: str = HOST, port: int = PORT) -> None:
        self.page, self.host = live, host
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except OSError as exc:
            why = first_line(exc)
            raise ConfigError(
                f"cannot listen on {host} port {port}: {why}", "--serve", "--port 0 takes a free port"
            ) from exc
        except OverflowError as exc:
            raise ConfigError(
                f"{port} is not a port number", "--port", "0 to 65535; 0 takes a free one"
            ) from exc

    def server_bind(self) -> None:
        """Without looking up the address's name, which may take long."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.host, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is not an error."""
        _log.debug("request failed", exc_info=True)

    @property
    def url(self) -> str:
        """Where a browser on this machine finds it."""
        host = self.host
        if host in ("0.0.0.0", "::", ""):
            host = socket.gethostname()
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/"

    def is_meant(self, host: str) -> bool:
        """Whether a request's host is ours. On loopback only: a foreign page could give its own name our address."""
        if not is_loopback(self.host):
            return True
        return is_loopback(host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address of that name."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
