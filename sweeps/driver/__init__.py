"""Runs a sweep: launch, conductor, Ray, preflight, progress."""
