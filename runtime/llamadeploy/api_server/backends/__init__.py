"""What runs deployments for the API server; the border is in ``base``."""
