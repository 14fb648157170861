#!/usr/bin/env bash
# Writes requirements.hashes and requirements.integrations.hashes: the versions of each lock with the hashes of all their
# files, as the package index publishes them. Run it after every change of a lock: deploy/lock_hashes.sh [path of uv]
# torch and torchvision have no hash: their builds for CPUs and GPUs come from several places. pip cannot check hashes of constraints.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${1:-.venv/bin/uv}
pinned=$(mktemp)
trap 'rm -f "$pinned"' EXIT
for lock in requirements requirements.integrations; do
  grep -vE '^torch(vision)?==' $lock.lock > "$pinned"
  {
    echo "# Written by deploy/lock_hashes.sh from $lock.lock, for uv."
    grep -E '^torch(vision)?==' $lock.lock
    "$uv" pip compile --quiet --no-deps --generate-hashes --no-header --no-annotate --universal --python-version 3.11 "$pinned"
  } > $lock.hashes.new
  mv $lock.hashes.new $lock.hashes
done
