"""Amazon S3 and its kin."""
