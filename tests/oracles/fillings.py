"""What fills slots in tests: small, with a state wherever a slot may have one."""

import torch

from gcp_core.models.mode import mode


class HalfRemoved:
    """A repair: what stays gets half of what the mean activation of what goes has contributed to each output."""

    needs = "data"
    forwards = 2.0

    def __init__(self, share=0.5):
        self.share = share

    def patch(self, model, groups, plan, batches, generator):
        images = next(iter(batches))[0]
        with mode(model, training=False), torch.no_grad():
            level = float(model(images).abs().mean())
        for name, edges in groups.edges().items():
            gone = plan.removed.get(name, ())
            for consumer in edges.consumers:
                if consumer.depthwise or not gone:
                    continue
                weight = model.get_submodule(consumer.layer).weight
                columns = [c for unit in gone for c in consumer.columns[unit]]
                kept = [c for c in range(weight.shape[1]) if c not in columns]
                lost = weight[:, columns].sum(1, keepdim=True).detach()
                with torch.no_grad():
                    weight[:, kept] += self.share * (1 + level) * lost / len(kept)


class Remembered:
    """A penalty with a state: the mean of each norm's scale over all steps so far draws the scale towards it."""

    def __init__(self, weight=0.01):
        self.weight, self.steps, self.means = weight, 0, {}

    def term(self, model, images, labels, outputs):
        found = torch.zeros(())
        for name, scale in _scales(model):
            if name in self.means:
                found = found + ((scale - self.means[name]) ** 2).sum()
        return self.weight * found

    def after_step(self, model):
        self.steps += 1
        for name, scale in _scales(model):
            old = self.means.get(name, torch.zeros_like(scale))
            self.means[name] = old + (scale - old) / self.steps

    def on_plan(self, plan):
        for cut in plan.cuts:
            if cut.tensor in self.means:
                kept = [i for i in range(cut.size) if i not in cut.removed]
                self.means[cut.tensor] = self.means[cut.tensor][kept]

    def state_dict(self):
        return {"steps": self.steps, **self.means}

    def load_state_dict(self, state):
        self.steps = state.pop("steps")
        self.means = state


def _scales(model):
    return [
        (f"{name}.weight", module.weight)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    ]


class EveryOther:
    """A clock with a memory: due at every second time it is asked."""

    needs = "data"
    forwards = 0.5

    def __init__(self, first=2):
        self.left = first
        self.asked = []

    def due(self, epoch, model, groups, batches, generator):
        self.asked.append(epoch)
        self.left -= 1
        if self.left:
            return False
        self.left = 2
        return True

    def state_dict(self):
        return {"left": self.left}

    def load_state_dict(self, state):
        self.left = state["left"]


class FirstGroup:
    """An allocator that takes all it can from the first group, then from the second, and so on."""

    def allot(self, scores, groups, budget):
        left, keep = budget.units(groups.num_units), {}
        for group in groups.groups:
            taken = min(left, group.size - budget.floor(group))
            keep[group.name], left = group.size - taken, left - taken
        return keep


class Looking:
    """An allocator that looks: all from the group whose layer has the largest weights, as the model is now."""

    needs = "data"

    def look(self, model, groups, batches, generator):
        sizes = {
            g.name: float(model.get_submodule(g.name).weight.detach().abs().mean()) for g in groups.groups
        }
        return _OneGroup(max(sizes, key=sizes.get))

    def allot(self, scores, groups, budget):
        raise AssertionError("it has not looked")


class _OneGroup:
    def __init__(self, name):
        self.name = name

    def allot(self, scores, groups, budget):
        return {self.name: 0}


class Sets:
    """A criterion that chooses sets, which are not nested: of k units it keeps every (size / k)-th."""

    needs = "nothing"
    set_valued = True
    comparable = True

    def ranking(self, model, groups, batches, generator):
        return {group.name: _EveryNth(group.size) for group in groups.groups}


class _EveryNth:
    def __init__(self, size):
        self.size = size

    @property
    def worth(self):
        return torch.linspace(1.0, 0.0, self.size, dtype=torch.float64)

    def keep(self, k):
        return [i * self.size // k for i in range(k)]


class Zero:
    """A penalty of nothing."""

    def term(self, model, images, labels, outputs):
        return images.new_zeros(())

    def on_plan(self, plan):
        pass


class PerUnit(FirstGroup):
    """An allocator that says it reads single units."""

    per_unit = True


class Growing(FirstGroup):
    """An allocator that says it may let layers grow."""

    grows = True
