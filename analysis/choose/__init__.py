"""From a front to one model: constraints, verbs, advice, the config that trains a choice again."""
