"""Multipart uploads that a killed process left: they occupy space, and no list of objects shows them.

A lifecycle rule makes the server abort them. Where the server does not take the rule, `abort_abandoned` does the same.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from botocore.exceptions import ClientError

from phema.shared.snapshots.stores.interface import ABANDONED_DAYS
from phema.shared.snapshots.stores.s3.bucket import S3Bucket
from phema.shared.snapshots.stores.s3.errors import code_of

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import LifecycleRuleOutputTypeDef, LifecycleRuleTypeDef

RuleState = Literal["added", "present", "refused"]
_NO_RULES = ("NoSuchLifecycleConfiguration", "404")


def add_lifecycle_rule(bucket: S3Bucket) -> RuleState:
    """Add a rule that aborts the store's uploads after ABANDONED_DAYS. The bucket's other rules stay.

    "refused": the server does not implement such rules, or these credentials may not set them.
    """
    try:
        rules = _rules(bucket)
        if any(_covers(rule, bucket.prefix) for rule in rules):
            return "present"
        added: LifecycleRuleTypeDef = {
            "ID": f"phema-unfinished-uploads-{bucket.prefix}"[:255],
            "Status": "Enabled",
            "Filter": {"Prefix": bucket.prefix},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": ABANDONED_DAYS},
        }
        bucket.client.put_bucket_lifecycle_configuration(
            Bucket=bucket.name,
            LifecycleConfiguration={"Rules": [*rules, added]},
        )
    except ClientError:
        return "refused"
    return "added"


def abort_abandoned(bucket: S3Bucket, older_than_s: float) -> int:
    """Abort the store's uploads that began so long ago, and return their number. Raises boto3's errors."""
    latest, aborted = time.time() - older_than_s, 0
    pages = bucket.client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket.name, Prefix=bucket.prefix)
    for upload in [each for page in pages for each in page.get("Uploads", [])]:
        if upload["Initiated"].timestamp() > latest:
            continue
        aborted += abort(bucket, upload["Key"], upload["UploadId"])
    return aborted


def abort(bucket: S3Bucket, name: str, upload_id: str) -> bool:
    """Abort an upload. False if it has ended meanwhile. `name`: the key with the bucket's prefix."""
    try:
        bucket.client.abort_multipart_upload(Bucket=bucket.name, Key=name, UploadId=upload_id)
    except ClientError as error:
        if code_of(error) != "NoSuchUpload":
            raise
        return False
    return True


def _rules(bucket: S3Bucket) -> list[LifecycleRuleOutputTypeDef]:
    try:
        return bucket.client.get_bucket_lifecycle_configuration(Bucket=bucket.name).get("Rules", [])
    except ClientError as error:
        if code_of(error) not in _NO_RULES:
            raise  # with unknown rules, a new configuration would remove them
        return []


def _covers(rule: LifecycleRuleOutputTypeDef, prefix: str) -> bool:
    """Whether the rule aborts all unfinished uploads below the prefix."""
    covered = rule.get("Filter", {}).get("Prefix", rule.get("Prefix"))
    if set(rule.get("Filter", {})) - {"Prefix"} or (covered is None and "Filter" not in rule):
        return False
    return rule["Status"] == "Enabled" and "AbortIncompleteMultipartUpload" in rule and prefix.startswith(covered or "")
