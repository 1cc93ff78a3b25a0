"""From a front to one model: constraints, verbs, advice, and the config that trains a choice again."""
