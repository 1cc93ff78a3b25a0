"""When to prune (clock) and how fast to learn (pace)."""
