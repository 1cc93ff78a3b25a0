"""Criteria that look at a unit through the layers that read it: what they would lose, and what could make up for it."""
