"""One seed, many independent streams."""

from __future__ import annotations

import torch

from gcp_core.seeds import derive_seed, generator


def test_a_stream_is_named_by_seed_and_names_and_stays_the_same_for_ever():
    """Half of the first 16 digits of `printf 0:order:7 | sha256sum`: every recorded trial rests on it."""
    assert derive_seed(0, "order", 7) == 2038872975133069594
    assert derive_seed(0, "order", 7) == derive_seed(0, "order", 7)


def test_streams_differ_by_seed_by_name_and_by_order_of_names():
    seeds = [
        derive_seed(*key) for key in [(0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2), (0, 1, "a"), (0,)]
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds), "what torch.Generator takes"


def test_a_generator_draws_its_own_numbers_and_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    one, again, other = (torch.rand(4, generator=generator(0, name)) for name in ("a", "a", "b"))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)
