#!/usr/bin/env bash
# Makes a virtual environment with phema, editable, at the locked versions: install.sh PYTHON VENV [EXTRA [LOCK]]
# EXTRA (default test) is one of pyproject.toml; LOCK (default requirements) names LOCK.lock and LOCK.hashes.
# uv checks the hashes of all downloads but torch and, on machines with CUDA, torch's libraries.
# The same by hand: python3 -m venv .venv && .venv/bin/pip install -e '.[test]'
set -euo pipefail
python=$1 venv=$2 extra=${3:-test} lock=${4:-requirements}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "phema needs Python 3.11 or newer; '$python' is $("$python" -V 2>&1). Name another: make PYTHON=python3.12 …" >&2
  exit 1
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"

echo "installing phema into $venv (torch and ray: a few minutes the first time) …"
# The lines of uv in the lock: its version and hashes.
sed -n '/^uv==/,/[^\\]$/p' requirements.hashes > "$venv/uv.txt"
if "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --requirement "$venv/uv.txt" 2>/dev/null; then
  # uv does not read pip's settings: hand over the folders of wheels that pip would look into.
  links=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-$("$venv/bin/python" -m pip config get global.find-links 2>/dev/null || true)}}
  UV_FIND_LINKS=$(echo "$links" | tr -s ' \n' ',' | sed 's/,$//') \
    "$venv/bin/uv" pip install --quiet --compile-bytecode --python "$venv/bin/python" \
    --constraints "$lock.hashes" --build-constraints requirements.hashes --editable ".[$extra]"
else
  echo "uv cannot be installed: pip installs the locked versions, but does not check their hashes" >&2
  "$venv/bin/python" -m pip install --quiet --constraint "$lock.lock" --editable ".[$extra]"
fi
# uv has compiled the packages; phema itself is installed as links to its sources.
"$venv/bin/python" -m compileall -q -j 0 phema shared services
