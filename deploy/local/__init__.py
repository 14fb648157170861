"""docker-compose.yml's services as processes of this machine, without docker: `python -m deploy.local FOLDER`.

`compose` reads the file, `table` lists the differences between containers and processes, `plan` turns each service into
a `phema.local_service.service.Service`, `cluster` gives them to the supervisor of `phema up`. Linux only.
"""
