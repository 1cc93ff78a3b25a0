"""A criterion of your own: a factory that returns something with ``needs`` and ``score``.

In a sweep's config:  prune: {criterion: "own_criterion:weight_spread"}   (its folder on PYTHONPATH)
To give it a name of its own, register the factory under the entry-point group ``gcp_core.criteria``.
"""

from gcp_core.config import ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.training import run_trial


class WeightSpread:
    """Keep filters whose weights vary most, relative to their layer."""

    needs = "nothing"  # "data" if score() looks at the batches

    def score(self, model, groups, batches, generator):
        scores = {}
        for layer in groups.scored_layers():
            spread = model.get_submodule(layer).weight.detach().flatten(1).double().std(1)
            scores[layer] = spread / spread.mean()
        return scores


def weight_spread():
    return WeightSpread()


if __name__ == "__main__":
    config = TrialConfig(
        model=ModelConfig("vgg_tiny", width=0.25),
        train=TrainConfig(epochs=4, batch_size=64),
        prune=PruneConfig(
            criterion="own_criterion:weight_spread", interval=1, ratio=0.3, target=0.5, until=3
        ),
    )
    result = run_trial(config)
    print(f"{result.status}: {result.finals['macs_removed']:.0%} of the MACs removed")
