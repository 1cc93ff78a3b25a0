"""What the sampler looks at: a study in memory that holds proposals, answers, and the observations of paths."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from analysis.front.pareto import rank_costs
from gcp_core.errors import ConfigError
from sweeps.config.search import SearchConfig
from sweeps.records.studies import directions_of, quiet_optuna

#: A sampler that takes observations looks at so many of paths, at most twice as many for a while. What an ask of TPE
#: takes grows with their number (25 ms at 1,600), that of GP with its cube.
CAPS = {"tpe": 800, "gp": 60}
#: Of single trials likewise: so an ask at 10,000 of them takes as long as at 1,000, and the best ones are the same.
CAPS_SINGLE = {"tpe": 400}
#: Optuna's note of which generation of a population a trial belongs to; only such trials become parents.
_GENERATION = "NSGAIISampler:generation"
#: One in so many of those kept is there because it is among the best.
_BEST = 8


class Observation(NamedTuple):
    """A snapshot of a path: ``place`` 0 is its path's first. ``violations`` > 0 are broken constraints; they are added
    up (:func:`sweeps.strategy.judging.shares_of_limits`).
    """

    path: int
    place: int
    values: tuple[float, ...]
    violations: Mapping[str, float]


def build_sampler(name: str, num_trials: int, seed: int) -> BaseSampler:
    """The Optuna sampler for a name in ``sweeps.config.search.SAMPLERS`` (``grid`` is random once it is done)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "tpe":
            warm_up = warm_up_of(num_trials)
            return TPESampler(multivariate=True, constant_liar=True, n_startup_trials=warm_up, seed=seed)
        if name == "nsga2":
            return NSGAIISampler(population_size=max(4, min(50, num_trials // 4)), seed=seed)
        if name == "gp":
            return GPSampler(n_startup_trials=warm_up_of(num_trials), seed=seed)
        if name == "qmc":
            return QMCSampler(qmc_type="sobol", scramble=True, seed=seed)
        if name in ("random", "grid"):
            return RandomSampler(seed=seed)
    raise ConfigError(f"{name!r} is unknown", "search.sampler")


def warm_up_of(num_trials: int) -> int:
    """Trials, or paths, that are known before a model of them is worth asking."""
    return max(4, min(10, num_trials // 3))


def thinned(known: Sequence[Observation], objectives: Mapping[str, str], cap: int) -> list[Observation]:
    """At most ``cap`` observations that stand for all of them, in their order.

    An eighth of the cap are the best: those that keep the constraints by their rank of non-domination, then the others
    by how far they break them. The rest is an even share of what is left. Lots decide that, and between equals; a lot
    depends on the path's number and the snapshot's place in it alone, so the same observations give the same set in
    whatever order they came.
    """
    if len(known) <= cap:
        return list(known)
    signs = np.array([-1.0 if direction == "max" else 1.0 for direction in objectives.values()])
    costs = np.array([seen.values for seen in known]) * signs
    excess = np.array([sum(max(0.0, e) for e in seen.violations.values()) for seen in known])
    fair = excess <= 0
    ranks = np.zeros(len(known))
    ranks[fair] = rank_costs(costs[fair])
    lots = np.array([_lot(seen) for seen in known])
    order = np.lexsort((lots, ranks, excess))  # by excess, then rank, then lot
    best = order[: cap // _BEST]
    rest = order[cap // _BEST :]
    drawn = rest[np.argsort(lots[rest])][: cap - len(best)]
    return [known[index] for index in sorted([*best, *drawn])]


def _lot(seen: Observation) -> int:
    name = f"{seen.path}@{seen.place}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=7).digest(), "big")


class Mirror:
    """The study behind a :class:`sweeps.strategy.sampling.Proposer`; trials go by their number in the ledger.

    A single trial is one trial here, answered at its end. Each snapshot of a path is one observation at the path's
    parameters: the first answers the path's own trial, later ones are added; nothing depends on the path's end. Until
    as many paths as make up the warm-up have a snapshot each, points are drawn by chance. Of more than twice
    :data:`CAPS` observations those stay that :func:`thinned` keeps, beside what is still without any; they are chosen
    among all that were ever made. A driver that takes over may thin at another moment and so hold another such set.
    Of single trials, those that were stopped among them, :data:`CAPS_SINGLE` are kept in the same way.

    A population (NSGA-II) takes one value per path, to be maximised. Its parents are chosen from generations, so what it
    was not asked for (points that the user gave, trials of earlier drivers) is entered in the generation that an ask at
    that moment would have had: entered and told one after the other, a sweep has the generations that it had.
    """

    def __init__(
        self,
        search: SearchConfig,
        distributions: Mapping[str, BaseDistribution],
        num_trials: int,
        seed: int,
        paths: bool,
    ) -> None:
        self._search, self._distributions = search, dict(distributions)
        self._num_trials, self._seed, self._paths = num_trials, seed, paths
        self._takes = search.sampler in CAPS
        self._cap = (CAPS if paths else CAPS_SINGLE).get(search.sampler, 0)
        self._numbers: dict[int, int] = {}
        self._params: dict[int, dict[str, Any]] = {}
        self._open: set[int] = set()
        self._known: list[Observation] = []
        self._counts: dict[int, int] = {}
        self._stopped: list[int] = []
        self._inside = self._rebuilt = 0
        self._generation = self._born = 0
        self._by_chance = RandomSampler(seed=seed)
        self._sampler = build_sampler(search.sampler, num_trials, seed)
        self._study = self._new_study()

    @property
    def takes_observations(self) -> bool:
        """Whether the sampler learns from points that it was not asked for."""
        return self._takes

    def trials(self) -> list[FrozenTrial]:
        """What the sampler sees; not to be changed."""
        return self._study.get_trials(deepcopy=False)

    # --- proposals ------------------------------------------------------------------------------------------------

    def ask(self) -> optuna.Trial:
        """A draw, to be given to :meth:`accept` or :meth:`discard`."""
        known = len(self._counts) + len(self._stopped)
        chance = self._paths and self.takes_observations and known < warm_up_of(self._num_trials)
        self._study.sampler = self._by_chance if chance else self._sampler
        with quiet_optuna(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._study.ask(self._distributions)

    def accept(self, number: int, drawn: optuna.Trial) -> None:
        """The draw is the trial with this number in the ledger."""
        self._note(number, drawn.number, drawn.params)

    def discard(self, drawn: optuna.Trial) -> None:
        """The draw will not be run."""
        with quiet_optuna():
            self._study.tell(drawn.number, state=TrialState.FAIL)

    def enter(self, number: int, params: dict[str, Any]) -> None:
        """A trial with this number in the ledger that was not drawn here."""
        self._note(number, self._add(TrialState.RUNNING, params, about=self._born_now()), params)

    def _born_now(self) -> dict[str, Any]:
        """What Optuna notes of a trial that is asked for now; found without its look at all trials."""
        sampler = self._sampler
        if not isinstance(sampler, NSGAIISampler):
            return {}
        full = self._born >= (sampler.population_size or 0)
        if full:  # the parents are chosen now: those of a long sweep one from the other need too deep a stack
            sampler.get_parent_population(self._study, self._generation + 1)
        return {_GENERATION: self._generation + full}

    def _count(self, told: FrozenTrial) -> None:
        """One more with values: when a generation has as many as the population, the next one begins."""
        generation = told.system_attrs.get(_GENERATION, -1)
        if generation > self._generation:
            self._generation, self._born = generation, 0
        self._born += generation == self._generation

    def _note(self, number: int, inside: int, params: dict[str, Any]) -> None:
        self._numbers[number], self._params[number] = inside, params
        self._open.add(number)

    # --- answers --------------------------------------------------------------------------------------------------

    def tell(
        self,
        number: int,
        values: Sequence[float] | None,
        violations: Mapping[str, float],
        stopped: bool = False,
    ) -> None:
        """How a trial ended, None = without values; a trial that has an answer keeps it."""
        if number not in self._open:
            return
        self._open.remove(number)
        inside = self._numbers.pop(number)
        trial = optuna.trial.Trial(self._study, self.trials()[inside]._trial_id)
        for name, excess in violations.items():
            trial.set_constraint(name, excess)
        with quiet_optuna():
            if values is None:
                self._stopped += [number] if stopped else []
                self._study.tell(inside, state=TrialState.PRUNED if stopped else TrialState.FAIL)
            else:
                self._count(self._study.tell(inside, values=list(values)))
        if self._cap and not self._paths and (values is not None or stopped):
            if values is not None:
                self._known.append(Observation(number, 0, tuple(values), dict(violations)))
            self._grown()

    def observe(self, path: int, values: tuple[float, ...], violations: Mapping[str, float]) -> None:
        """A snapshot of a path is finished; only for samplers that take observations."""
        seen = Observation(path, self._counts.get(path, 0), values, dict(violations))
        self._counts[path] = seen.place + 1
        self._known.append(seen)
        if path in self._open:
            self.tell(path, values, violations)
        else:
            self._add_observation(seen)
        self._grown()

    def _grown(self) -> None:
        """One more that the sampler looks at."""
        self._inside += 1
        if self._inside > 2 * self._cap:
            self._thin()

    def _thin(self) -> None:
        """A new study, and a new sampler that has seen no other: Optuna's remember the trials of theirs."""
        self._rebuilt += 1
        stopped = self._stopped_kept()
        room = self._cap if self._paths else self._cap - len(stopped)
        kept = thinned(self._known, self._search.objectives, room)
        seed = self._seed + 1_000_003 * self._rebuilt
        self._sampler = build_sampler(self._search.sampler, self._num_trials, seed)
        self._study = self._new_study()
        for number in stopped:
            self._add(TrialState.PRUNED, self._params[number])
        for seen in kept:
            self._add_observation(seen)
        self._inside = len(kept) + (0 if self._paths else len(stopped))
        for number in sorted(self._open):
            self._numbers[number] = self._add(TrialState.RUNNING, self._params[number])

    def _stopped_kept(self) -> list[int]:
        """A sweep of single trials may stop most of them: they are seen in their share of all."""
        if self._paths:
            return self._stopped
        share = len(self._stopped) * self._cap // max(self._cap, len(self._stopped) + len(self._known))
        lots = sorted(self._stopped, key=lambda number: _lot(Observation(number, 0, (), {})))
        return sorted(lots[:share])

    def _add_observation(self, seen: Observation) -> None:
        self._add(TrialState.COMPLETE, self._params[seen.path], seen.values, seen.violations)

    def _add(
        self,
        state: TrialState,
        params: dict[str, Any],
        values: Sequence[float] | None = None,
        violations: Mapping[str, float] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> int:
        number = len(self.trials())
        self._study.add_trial(
            create_trial(
                state=state,
                params=params,
                distributions=self._distributions,
                values=None if values is None else list(values),
                constraints=dict(violations or {}),
                system_attrs=dict(about or {}),
            )
        )
        return number

    def _new_study(self) -> optuna.Study:
        directions = directions_of(self._search.objectives)
        if self._paths and self._search.sampler == "nsga2":
            directions = [StudyDirection.MAXIMIZE]
        with quiet_optuna():
            return optuna.create_study(directions=directions, sampler=self._sampler)
