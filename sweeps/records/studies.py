"""Optuna studies of a sweep: opened, made where they are missing, and quiet."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection


def directions_of(objectives: Mapping[str, str]) -> list[StudyDirection]:
    """Optuna's word for each ``max`` or ``min``."""
    return [
        StudyDirection.MAXIMIZE if goal == "max" else StudyDirection.MINIMIZE for goal in objectives.values()
    ]


def open_study(storage: BaseStorage, name: str, objectives: Mapping[str, str]) -> optuna.Study:
    """Load it, or create it; never both, because trying to create an existing one leaves a line in the journal."""
    if name in optuna.get_all_study_names(storage):
        return optuna.load_study(storage=storage, study_name=name)
    study = optuna.create_study(storage=storage, study_name=name, directions=directions_of(objectives))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(objectives))  # optuna-dashboard shows them
    return study


class Sibling:
    """A study of a sweep, opened when it is first asked for; some are made only when they are first written."""

    def __init__(self, storage: BaseStorage, name: str, objectives: Mapping[str, str]) -> None:
        self._storage, self._name, self._objectives = storage, name, objectives
        self._study: optuna.Study | None = None

    def there(self) -> optuna.Study | None:
        """The study, None if nobody has written to it yet."""
        with quiet_optuna():
            if self._study is None and self._name in optuna.get_all_study_names(self._storage):
                self._study = open_study(self._storage, self._name, self._objectives)
        return self._study

    def made(self) -> optuna.Study:
        """The study, created if there is none."""
        if self._study is None:
            with quiet_optuna():
                self._study = open_study(self._storage, self._name, self._objectives)
        return self._study


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Optuna announces every study and trial on stderr; the sweep has its own progress.

    A driver enters this once for good: every change of a level makes Python forget what it knows of all loggers.
    """
    logger = logging.getLogger("optuna")
    level = logger.level
    if level >= logging.ERROR:
        yield
        return
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
