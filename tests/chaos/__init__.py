"""`make chaos`: real services, real work, and random faults; afterwards nothing may be lost.

`cluster` runs the processes, `workload` asks for work through the REST API, `faults` has one function per fault,
`storm` injects them one after the other, `checks` compares the outcome with the laws, `report` writes the table.
"""
