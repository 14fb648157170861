#!/bin/sh
# `minio server /data …`: ministack, with MinIO's variables, port and folder.
export BIND_HOST=0.0.0.0 GATEWAY_PORT=9000 SERVICES=s3 S3_PERSIST=1 S3_DATA_DIR=/data LOG_LEVEL=WARNING
export AWS_ACCESS_KEY_ID="$MINIO_ROOT_USER" AWS_SECRET_ACCESS_KEY="$MINIO_ROOT_PASSWORD"
exec /opt/ministack/bin/python -m ministack
