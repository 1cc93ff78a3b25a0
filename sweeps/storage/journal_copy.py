"""The store's copy of the ledger's journal: it grows by what is new, though no object can be appended to.

``journal.log`` is the journal as it was at some moment; what was written since lies below ``journal.more/``, in objects
named by the place of their first byte. The last of those is stored again until it is long, so that a trial that starts
costs one object of at most :data:`SEGMENT` bytes, and not the whole journal, which a long sweep makes megabytes of. When
there is as much of it as of ``journal.log``, that is stored anew and they go.
"""

from __future__ import annotations

from pathlib import Path

from sweeps.records.layout import JOURNAL
from sweeps.storage.objects import ObjectStore

#: An object of the rest is closed when it is as long as this.
SEGMENT = 1 << 17
MORE = "journal.more"
#: So often a copy is read again in which somebody is tidying up.
_TRIES = 5


class JournalCopy:
    """Keeps a store's copy like ``file``, which only this process writes; the first call stores all of it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._whole: int | None = None
        self._begin = self._end = 0

    def send(self, store: ObjectStore) -> None:
        """Store what is new."""
        size = self._file.stat().st_size
        whole = self._whole
        if whole is None or size < self._end or size - whole >= max(whole, 2 * SEGMENT):
            self._send_whole(store)
        elif size > self._end:
            with self._file.open("rb") as file:
                file.seek(self._begin)
                new = file.read(size - self._begin)
            store.write(f"{MORE}/{self._begin:015d}", new)
            self._end = self._begin + len(new)
            if len(new) >= SEGMENT:
                self._begin = self._end

    def _send_whole(self, store: ObjectStore) -> None:
        self._whole = None  # if this breaks off, the next call starts again
        content = self._file.read_bytes()
        store.write(JOURNAL, content)
        store.remove(MORE)
        self._whole = self._begin = self._end = len(content)


def read_copy(store: ObjectStore) -> bytes | None:
    """The journal as the store has it, None if it has none."""
    content: bytes | None = None
    for _ in range(_TRIES):
        content = store.read(JOURNAL)
        if content is None:
            return None
        whole = True
        for path, size in sorted(store.sizes(MORE).items()):
            begin = int(path.rpartition("/")[2])
            if begin + size <= len(content):
                continue  # it is part of journal.log, and about to go
            more = store.read(path) if begin <= len(content) else None
            if more is None:  # journal.log has been stored anew meanwhile
                whole = False
                break
            content = content[:begin] + more
        if whole:
            return content
    return content


def copy_stamp(store: ObjectStore) -> tuple[float, int] | None:
    """Another one means another copy; None if there is none."""
    stamp = store.stamp(JOURNAL)
    return None if stamp is None else (stamp[0], stamp[1] + sum(store.sizes(MORE).values()))
