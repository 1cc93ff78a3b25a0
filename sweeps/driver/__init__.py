"""Runs a sweep: launch, Ray, preflight, progress."""
