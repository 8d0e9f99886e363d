#!/bin/sh
# The bucket, and an account for the office that can do nothing but its work. Run again it changes nothing.
set -eu

secret() { cat "/run/secrets/$1"; }

mc alias set store http://minio:9000 "$(secret minio_root_user)" "$(secret minio_root_password)" >/dev/null
mc mb --ignore-existing "store/$S3_BUCKET"

# A key that is written twice, or deleted by mistake or malice, can be had back for 30 days; then it is gone for good, as
# the erasure of a document has to be. Object lock would forbid that erasure, so it is not used.
mc version enable "store/$S3_BUCKET"
mc ilm rule import "store/$S3_BUCKET" <<LIFECYCLE
{
  "Rules": [
    {
      "ID": "gone-after-30-days",
      "Status": "Enabled",
      "Expiration": {"DeleteMarker": true},
      "NoncurrentVersionExpiration": {"NoncurrentDays": 30}
    }
  ]
}
LIFECYCLE

cat >/tmp/policy.json <<POLICY
{
  "Version": "2012-10-17",
  "Statement": [
    {
      "Effect": "Allow",
      "Action": ["s3:GetBucketLocation", "s3:ListBucket"],
      "Resource": ["arn:aws:s3:::$S3_BUCKET"]
    },
    {
      "Effect": "Allow",
      "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"],
      "Resource": ["arn:aws:s3:::$S3_BUCKET/*"]
    }
  ]
}
POLICY
mc admin policy create store kiosk-office /tmp/policy.json
mc admin user add store "$(secret s3_access_key)" "$(secret s3_secret_key)"
# Attaching twice is an error to mc; having it is what counts.
if ! mc admin policy attach store kiosk-office --user "$(secret s3_access_key)"; then
	case "$(mc admin user info store "$(secret s3_access_key)")" in
	*kiosk-office*) ;;
	*) exit 1 ;;
	esac
fi
