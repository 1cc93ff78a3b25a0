"""Training states: files that only serve to continue training, and are deleted once nothing can be continued."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable

from sweeps.records.job import Record
from sweeps.records.layout import EPOCHS, STAGES, trial_path
from sweeps.storage.exchange import Exchange

_log = logging.getLogger(__name__)


def may_go_on(record: Record) -> bool:
    """Whether a trial may need its last state again: it has not ended, or is a path that a raised target or cap, or a
    sweep that is asked for more, takes further.
    """
    return not record.finished or record.reopens


def clear_states(exchange: Exchange, records: list[Record]) -> None:
    """Remove shared training, and the checkpoints of trials that never continue (a lost one's process could not do it).

    A store that is away keeps its copies until the next ``gcp-sweep clean``.
    """
    over = [record for record in records if not may_go_on(record)]
    shutil.rmtree(exchange.root / STAGES, ignore_errors=True)
    for record in over:
        shutil.rmtree(exchange.root / trial_path(record.job.trial_id) / EPOCHS, ignore_errors=True)
    # Others' processes have removed theirs; a path that the rule has ended left its process as one that rests.
    left = [record for record in over if record.status == "lost" or record.ended == "constraint"]
    states = [f"{trial_path(record.job.trial_id)}/{EPOCHS}" for record in left]
    try:
        exchange.remove(STAGES, *states)
    except OSError as exc:
        _log.warning("training states stay in the store: %s", exc)


def without_state(exchange: Exchange, trials: Iterable[str]) -> list[str]:
    """The paths among ``trials`` that have no state to continue from (it was cleaned, or is lost).

    They can still continue: they are trained again from the nearest state that other trials share with them.
    """
    missing = [name for name in trials if not (exchange.root / trial_path(name) / EPOCHS).exists()]
    if not missing or exchange.url is None:
        return missing
    try:
        return [name for name in missing if not exchange.sizes(f"{trial_path(name)}/{EPOCHS}")]
    except OSError as exc:  # nobody waits for a sentence
        _log.warning("cannot tell which paths have states to continue from: %s", exc)
        return []


def trained_again(names: list[str]) -> str:
    """What is said of :func:`without_state`."""
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    gone, trained = ("state is", "it is") if len(names) == 1 else ("states are", "they are")
    return (
        f"the training {gone} gone of {shown}: {trained} trained again, from the nearest state that is shared,"
        " to the same weights on a CPU"
    )
