"""`preview` jobs: pictures of an average that is combined in the memory of a warm actor.

A thread of its own claims them and borrows an actor, in which they run beside the other work: a preview does not wait
for a part of an evaluation or for a reconstruction. The actor keeps the inputs of the latest previews in memory.
"""
