"""The verbs beside ``run``: plan, status, stop, clean, replay."""
