"""The names of files and folders below ``STORAGE/NAME``: the same in a folder, in a store, on every machine."""

from __future__ import annotations

from gcp_core.schema import LOCAL_ARTIFACTS

# In the sweep's folder.
#: How to find the sweep in MLflow, and whether it came to its end.
ENTRY = "sweep.json"
#: The config it was last run with, everything filled in.
CONFIG = "config.yaml"
#: The ledger, unless a database holds it. In a store, what is new of it lies apart (``sweeps.storage.journal_copy``).
JOURNAL = "journal.log"
TRIALS = "trials"
#: Folder of shared training states.
STAGES = "stages"
#: MLflow's records and its files, unless a tracking server has them.
DATABASE = "mlflow.db"
ARTIFACTS = LOCAL_ARTIFACTS
#: Ray Tune's scratch folder.
TUNE = ".tune"

# In a trial's folder.
#: Folder of the epochs' checkpoints.
EPOCHS = "epochs"
#: How the trial ended; written last.
OUTCOME_FILE = "outcome.json"
#: The driver's word that it should end early.
STOP_FILE = "stop.json"
#: The driver's word on a path's snapshot: whether it should rest there.
REST_FILE = "rest.json"
#: In a snapshot's folder: that its weights were dropped while the sweep ran, and why; or that they were put back.
DROPPED_FILE = "dropped.json"
#: Only if the trial hung: the stack of every thread at that moment.
HANG_FILE = "hang.txt"
#: In the store only: which process the trial belongs to.
OWNER = "owner"
#: In the store only, in the folder of the epochs' checkpoints: the newest of them, and the log up to there, as one object
#: (``sweeps.storage.packs``).
NEWEST = "newest.tar"


def trial_path(trial_id: str) -> str:
    """A trial's folder, relative to the sweep's."""
    return f"{TRIALS}/{trial_id}"
