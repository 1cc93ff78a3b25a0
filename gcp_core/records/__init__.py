"""What a trial keeps: checkpoints, the training it shares with others, results and snapshots."""
