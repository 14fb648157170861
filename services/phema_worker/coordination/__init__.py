"""Coordinates studies: sweeps, searches and continuous evaluations. Enqueues the jobs of their points, and waits.

A coordinator needs no actor and no torch. Its thread claims a study's job, advances the study by one step in short
transactions, and queues the job again until enough of the jobs it needs have ended. Every step may be repeated:
whichever process dies, the next claim continues.
"""
