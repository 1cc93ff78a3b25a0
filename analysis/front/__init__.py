"""The mathematics of fronts: objectives, scales, Pareto sets, hypervolume, attainment."""
