"""Prune any CNN in ten lines, and go on training with the same optimiser."""

import torch

from gcp_core.cost import measure_cost
from gcp_core.groups import find_groups
from gcp_core.models import build_model
from gcp_core.relevance import feature_relevance_scores
from gcp_core.selection import Budget, select_channels
from gcp_core.surgery import apply_plan

model = build_model("resnet20", num_classes=10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
batches = [(torch.randn(32, 3, 32, 32), torch.arange(32) % 10)]  # your scoring images and labels
example = torch.zeros(1, 3, 32, 32)
before = measure_cost(model, example)

groups = find_groups(model, example)  # which tensors lose a channel together
scores = feature_relevance_scores(model, batches, num_classes=10)
plan = select_channels(scores, groups, Budget(ratio=0.3))  # the lowest 30 % of all units
apply_plan(model, plan, optimizer)  # smaller tensors; the optimiser keeps the state of what is left

after = measure_cost(model, example)
print(f"{plan.num_units} units removed; MACs {before.macs / 1e6:.1f} M -> {after.macs / 1e6:.1f} M")
torch.nn.functional.cross_entropy(model(batches[0][0]), batches[0][1]).backward()
optimizer.step()
