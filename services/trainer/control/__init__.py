"""The control plane: claims `train` jobs, runs them on Ray, and writes their terminal states.

`reconciler` is the trainer's main loop. It submits one Ray job per attempt, which runs `driver`; the driver starts Ray
Train (`ray_training`), and Ray Train calls `ray_worker` in each worker process.
"""
