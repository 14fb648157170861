#!/usr/bin/env bash
# Writes .env from .env.example with a random secret wherever one is required. Never replaces an .env.
set -euo pipefail
cd "$(dirname "$0")/.."
set -o noclobber
umask 077
while IFS= read -r line; do
  if [[ $line =~ ^[A-Z0-9_]+=$ ]]; then
    line+=$(python3 -c 'import secrets; print(secrets.token_hex(24))')
  fi
  printf '%s\n' "$line"
done <.env.example >.env
echo "wrote .env; next: docker compose up"
