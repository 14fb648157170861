#!/usr/bin/env bash
# deploy/new_env.sh [FILE]: writes FILE (.env of this repository) from .env.example with a random secret wherever one is
# required, and no more CPUs than there are, since engines refuse a limit above that. Never replaces a file.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
file=${1:-$root/.env}
set -o noclobber
umask 077
cpus=$(getconf _NPROCESSORS_ONLN)
while IFS= read -r line; do
  if [[ $line =~ ^RAY_WORKER_CPUS=([0-9]+)$ ]] && ((BASH_REMATCH[1] > cpus)); then
    line=RAY_WORKER_CPUS=$cpus
  fi
  if [[ $line =~ ^[A-Z0-9_]+=$ ]]; then
    line+=$(od -An -v -N24 -tx1 /dev/urandom | tr -d ' \n')
  fi
  printf '%s\n' "$line"
done <"$root/.env.example" >"$file"
echo "wrote ${file#"$root"/}; next: docker compose up"
