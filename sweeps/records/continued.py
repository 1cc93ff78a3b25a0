"""Paths that were taken up again after their end: an Optuna trial that was told its values cannot be opened again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeps.records.studies import Sibling

#: Attribute that holds the name of the path, and which part of it this is (1 = the first after its end).
TRIAL, PART = "trial", "part"


class Continued:
    """A sibling study with one trial per further part of a path; there is none before the first part."""

    def __init__(self, study: Sibling) -> None:
        self._study = study

    def add(self, trial_id: str, part: int, about: Mapping[str, Any]) -> None:
        """Enter a part that begins, with everything that is known of the path, in one line."""
        attributes = {**about, TRIAL: trial_id, PART: part}
        self._study.made().add_trial(create_trial(state=TrialState.RUNNING, user_attrs=attributes))

    def find(self, trial_id: str, part: int) -> tuple[optuna.Study, FrozenTrial]:
        """The study and the entry of a part.

        Raises:
            KeyError: there is none.
        """
        study = self._study.made()
        for frozen in reversed(study.get_trials(deepcopy=False)):
            if (frozen.user_attrs[TRIAL], frozen.user_attrs[PART]) == (trial_id, part):
                return study, frozen
        raise KeyError((trial_id, part))

    def latest(self) -> dict[str, FrozenTrial]:
        """Trial id -> the entry of its last part."""
        study = self._study.there()
        trials = study.get_trials(deepcopy=False) if study is not None else ()
        return {frozen.user_attrs[TRIAL]: frozen for frozen in trials}
