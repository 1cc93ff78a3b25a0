"""What the user wrote: YAML, ranges, overrides, places, limits."""
