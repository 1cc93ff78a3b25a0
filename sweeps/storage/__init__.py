"""Where files are: locks, signs of life, object stores, the exchange between driver and trials, shared stages."""
