#!/usr/bin/env bash
# deploy/new_env.sh [FILE]: writes FILE (.env of this repository) from .env.example with a random secret wherever one is
# required, and no more CPUs than the engine has, which refuses a limit above that. Never replaces a file.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
file=${1:-$root/.env}
set -o noclobber
umask 077
# The engine may have fewer CPUs than this machine: Docker Desktop's runs in a virtual machine.
cpus=$(docker info --format '{{.NCPU}}' 2>/dev/null || true)
[[ $cpus =~ ^[1-9][0-9]*$ ]] || cpus=$(getconf _NPROCESSORS_ONLN)
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
