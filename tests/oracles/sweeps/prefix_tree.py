"""The fewest epochs that a set of trials needs if no common prefix is trained twice: counted as a set of nodes."""


def ideal_epochs(results, epochs):
    """Distinct (epoch, removals before it) over all trials."""
    nodes = set()
    for result in results:
        for epoch in range(1, epochs + 1):
            nodes.add((epoch, _removals(result, epoch)))
    return len(nodes)


def ideal_path_epochs(paths):
    """The same for paths, given as (config, result): the rate of an epoch belongs to its node.

    The dense phase is one-cycle over ``start`` epochs, so it has that rate in paths of the same start. After an event the
    rate depends on the shape of the cycles: only paths that agree in it, and in every removal, train the same.
    """
    nodes = set()
    for config, result in paths:
        train, prune = config.train, config.prune
        for epoch in range(1, len(result.history) + 1):
            before = _removals(result, epoch)
            shape = (prune.interval, train.restart, train.pace) if before else ()
            nodes.add((epoch, prune.start, before, shape))
    return len(nodes)


def _removals(result, epoch):
    """What was removed before this epoch, and when."""
    return tuple(
        (plan.meta["epoch"], tuple(sorted((k, tuple(v)) for k, v in plan.removed.items())))
        for plan in result.plans
        if plan.meta["epoch"] < epoch
    )
