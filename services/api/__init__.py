"""The REST API of phema: accepts work and answers questions. It computes nothing heavy and imports no torch.

`app.create_app` builds the application; `python -m phema.services.api` serves it. Each resource has its own folder:
`endpoints` (routes), `schemas` (requests and answers as JSON) and `service` (from requests to the catalog and back).
`resources` finds the folders. `http` holds what all resources share. Start with `runs`.
"""
