"""The fewest epochs that a set of trials needs if no common prefix is trained twice: counted as a set of nodes."""


def ideal_epochs(results, epochs):
    """Distinct (epoch, removals before it) over all trials."""
    nodes = set()
    for result in results:
        for epoch in range(1, epochs + 1):
            before = tuple(
                (plan.meta["epoch"], tuple(sorted((k, tuple(v)) for k, v in plan.removed.items())))
                for plan in result.plans
                if plan.meta["epoch"] < epoch
            )
            nodes.add((epoch, before))
    return len(nodes)
