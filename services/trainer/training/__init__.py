"""The training loop of one worker: batches, steps, averages, snapshots and checkpoints.

Start reading at `loop.train`. The loop's only clock is the number of images seen, so a run that is killed and resumed
ends with the same bytes. No module here imports Ray or the control plane.
"""
