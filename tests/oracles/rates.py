"""The learning rate of a path, written down step by step."""


def slow_rates(start, interval, cycles, steps, warmup, restart):
    """The rate of every step of a path of so many cycles, written down epoch by epoch."""
    rates = []
    total, rise = start * steps, start * steps * warmup
    for step in range(total):
        if step < rise:
            rates.append(0.04 + 0.96 * step / rise)
        else:
            rates.append(1 - (step - rise) / (total - rise))
    for _ in range(cycles):
        total = interval * steps
        rates += [restart * (total - step) / total for step in range(total)]
    return rates
