"""What a free worker does next in a sweep of paths (:mod:`.choice`), by what each path promises."""

from sweeps.strategy.paths.choice import Choice, Verdict

__all__ = ["Choice", "Verdict"]
