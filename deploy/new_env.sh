#!/usr/bin/env bash
# Writes .env from .env.example with a random secret wherever one is required, and no more CPUs than there are, since
# engines refuse a limit above that. Never replaces an .env.
set -euo pipefail
cd "$(dirname "$0")/.."
set -o noclobber
umask 077
cpus=$(python3 -c 'import os; print(os.cpu_count() or 1)')
while IFS= read -r line; do
  if [[ $line =~ ^RAY_WORKER_CPUS=([0-9]+)$ ]] && ((BASH_REMATCH[1] > cpus)); then
    line=RAY_WORKER_CPUS=$cpus
  fi
  if [[ $line =~ ^[A-Z0-9_]+=$ ]]; then
    line+=$(python3 -c 'import secrets; print(secrets.token_hex(24))')
  fi
  printf '%s\n' "$line"
done <.env.example >.env
echo "wrote .env; next: docker compose up"
