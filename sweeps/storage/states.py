"""Training states: files that only help to go on with training, and go when there is nothing to go on with."""

from __future__ import annotations

import logging
import shutil

from sweeps.records.job import Record
from sweeps.records.layout import EPOCHS, STAGES, trial_path
from sweeps.storage.exchange import Exchange

_log = logging.getLogger(__name__)


def clear_states(exchange: Exchange, records: list[Record]) -> None:
    """Remove shared training, and the checkpoints of trials that have ended (a lost one's process could not do it).

    A store that is away keeps its copies until the next ``gcp-sweep clean``.
    """
    ended = [record for record in records if record.finished]
    shutil.rmtree(exchange.root / STAGES, ignore_errors=True)
    for record in ended:
        shutil.rmtree(exchange.root / trial_path(record.job.trial_id) / EPOCHS, ignore_errors=True)
    lost = [f"{trial_path(record.job.trial_id)}/{EPOCHS}" for record in ended if record.status == "lost"]
    try:
        exchange.remove(STAGES, *lost)
    except OSError as exc:
        _log.warning("training states stay in the store: %s", exc)
