"""The state of the deployment: its parts, its queue, and what every run stores."""
