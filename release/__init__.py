"""What has to hold before a release is tagged: ``make release-check``."""
