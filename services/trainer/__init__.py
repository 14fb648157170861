"""The trainer service: turns `train` jobs of the catalog into training runs on Ray.

`control` claims jobs, runs them on Ray and records how they end. `training` is the loop that Ray's workers execute; it
imports neither Ray nor `control`. `attempt` is what both share, `local_training` runs the loop without Ray. Start
reading at `control.reconciler`, or at `training.loop` for what happens in a step.
"""
