"""What is measured while a run trains: losses, magnitudes, the time of each part of a step.

`status_reporter` collects the figures and publishes them; start reading there. Measuring never changes what is trained.
"""
