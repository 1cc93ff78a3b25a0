"""Under which key which weights would be shared, seen by a store that shares nothing."""

import itertools

import torch

from gcp_core.records.stages import StageStore


class Remembering(StageStore):
    """Keeps nothing, and remembers under which key what would have been kept."""

    def __init__(self):
        self.seen = {}

    def load(self, key):
        return None

    def save(self, key, state, manifest):
        self.seen[key] = {name: tensor.clone() for name, tensor in state["model"].items()}


def states_in_common(trained):
    """How many states two of the trials have under one key; they are asserted to be equal, tensor by tensor.

    Args:
        trained: name of a trial -> (key -> weights), as :class:`Remembering` saw them.
    """
    shared = 0
    for one, other in itertools.combinations(trained, 2):
        for key in set(trained[one]) & set(trained[other]):
            mine, theirs = trained[one][key], trained[other][key]
            assert set(mine) == set(theirs), (one, other)
            assert all(torch.equal(mine[name], theirs[name]) for name in mine), (one, other)
            shared += 1
    return shared
