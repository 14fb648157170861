#!/usr/bin/env bash
# deploy/new_env.sh [FILE]: writes FILE (.env of this repository) from .env.example with a random secret wherever one is
# required. Never replaces a file.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
file=${1:-$root/.env}
set -o noclobber
umask 077
while IFS= read -r line; do
  if [[ $line =~ ^[A-Z0-9_]+=$ ]]; then
    line+=$(python3 -c 'import secrets; print(secrets.token_hex(24))')
  fi
  printf '%s\n' "$line"
done <"$root/.env.example" >"$file"
echo "wrote ${file#"$root"/}; next: docker compose up"
