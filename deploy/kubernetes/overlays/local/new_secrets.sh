#!/usr/bin/env bash
# Writes the four env files for kustomization.yaml's secrets, with random values. Never replaces a file.
set -euo pipefail
cd "$(dirname "$0")"
set -o noclobber
umask 077
new() { od -An -v -N24 -tx1 /dev/urandom | tr -d " \n"; }
password=$(new) key=$(new)
printf 'POSTGRES_PASSWORD=%s\n' "$password" >postgres.env
cat >store.env <<END
PHEMA_DATABASE_URL=postgresql://phema:$password@postgres:5432/phema
PHEMA_S3_ACCESS_KEY_ID=phema
PHEMA_S3_SECRET_ACCESS_KEY=$key
END
printf 'RAY_AUTH_TOKEN=%s\n' "$(new)" >ray.env
printf 'PHEMA_API_TOKEN=%s\n' "$(new)" >api.env
