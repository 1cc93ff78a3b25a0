"""Pareto mathematics under the name that users import; see :mod:`analysis.front.pareto`."""

from analysis.front.pareto import *  # noqa: F403
