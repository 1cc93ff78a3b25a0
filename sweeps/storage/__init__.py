"""Where files are: locks, heartbeats, object stores, the exchange between driver and trials, shared stages."""
