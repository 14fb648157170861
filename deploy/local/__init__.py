"""docker-compose.yml's topology as processes of this machine, without docker: `python -m deploy.local FOLDER`.

`compose` reads the file, `table` says what processes lack that containers have, `plan` makes processes of services,
`container` is the small process around each of them, `cluster` starts, watches and ends them. Linux only.
"""
