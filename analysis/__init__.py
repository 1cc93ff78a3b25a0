"""From the runs of a sweep to one model that can be defended."""
