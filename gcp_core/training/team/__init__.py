"""Several processes that train one trial together (``train.processes``), with torch's DistributedDataParallel.

The first process runs the whole trial as if it were alone: it decides, scores, evaluates, reports and writes. The others
do what it tells them: catch up with its model, cut as a plan says, train their part of an epoch. Only while an epoch is
trained does any process wait for all the others; whoever raises there ends the epoch for all.

    share       what a process does of every step: its part of the batch, gradients and sums over all
    norms       batch norms over the whole batch
    group       how processes find each other
    member      another process, as the first one sees it
    processes   members on this machine
    follower    what the others do
    team        what the first one does
"""
