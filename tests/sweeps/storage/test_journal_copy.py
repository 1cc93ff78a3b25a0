"""The store's copy of the journal grows by what is new and is always a journal that once was."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from sweeps.records.layout import JOURNAL
from sweeps.storage import journal_copy
from sweeps.storage.journal_copy import MORE, JournalCopy, copy_stamp, read_copy


class Memory:
    """As much of a store as a copy needs: objects by path, and how often each was written."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.sent: list[int] = []

    def write(self, path: str, content: bytes) -> None:
        self.objects[path] = content
        self.sent.append(len(content))

    def read(self, path: str) -> bytes | None:
        return self.objects.get(path)

    def remove(self, path: str) -> None:
        self.objects = {p: c for p, c in self.objects.items() if not p.startswith(f"{path}/")}

    def sizes(self, path: str) -> dict[str, int]:
        return {p: len(c) for p, c in self.objects.items() if p.startswith(f"{path}/")}

    def stamp(self, path: str) -> tuple[float, int] | None:
        return (float(len(self.sent)), len(self.objects[path])) if path in self.objects else None


@pytest.fixture
def store() -> Memory:
    return Memory()


def test_after_every_send_the_copy_is_the_journal(store: Memory, tmp_path: Path, monkeypatch) -> None:
    """Also when it was cut (a torn line), and when another process goes on with it."""
    monkeypatch.setattr(journal_copy, "SEGMENT", 400)
    journal, rng = tmp_path / JOURNAL, random.Random(0)
    journal.write_bytes(b"")
    copy, stamps = JournalCopy(journal), set()
    assert read_copy(store) is None
    for number in range(120):
        with journal.open("ab") as file:
            file.write(b"%d " % number * rng.randint(1, 60) + b"\n")
        if number == 50:
            journal.write_bytes(journal.read_bytes()[:-7])
        if number == 80:
            copy = JournalCopy(journal)
        copy.send(store)
        assert read_copy(store) == journal.read_bytes()
        stamps.add(copy_stamp(store))
    assert len(stamps) == 120


def test_a_trial_that_starts_costs_a_short_object_and_not_the_journal(store: Memory, tmp_path: Path) -> None:
    """2,000 starts of 3.5 kB: 7 MB of journal in 7 GB of copies before; now less than 80 kB each."""
    journal = tmp_path / JOURNAL
    copy = JournalCopy(journal)
    for _ in range(2000):
        with journal.open("ab") as file:
            file.write(b"x" * 3499 + b"\n")
        copy.send(store)
    assert len(store.sent) == 2000
    assert sum(store.sent) < 2000 * 80_000
    assert len(store.sizes(MORE)) <= 60


def test_who_reads_while_the_copy_is_tidied_up_reads_again(
    store: Memory, tmp_path: Path, monkeypatch
) -> None:
    journal = tmp_path / JOURNAL
    journal.write_bytes(b"1\n")
    copy = JournalCopy(journal)
    copy.send(store)
    journal.write_bytes(b"1\n2\n")
    copy.send(store)
    real, reads = store.sizes, []

    def tidied_up(path: str) -> dict[str, int]:
        if not reads:
            journal.write_bytes(b"1\n2\n3\n")
            JournalCopy(journal).send(store)
            journal.write_bytes(b"1\n2\n3\n4\n")
            again = JournalCopy(journal)
            again._whole = again._begin = again._end = 6
            again.send(store)
        reads.append(path)
        return real(path)

    monkeypatch.setattr(store, "sizes", tidied_up)
    assert read_copy(store) == b"1\n2\n3\n4\n"
    assert len(reads) == 2
