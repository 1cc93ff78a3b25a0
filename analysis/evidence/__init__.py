"""What the data can decide: noise, tests, comparisons, importance, confirmation."""
