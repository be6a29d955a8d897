"""Real clusters and brokers for tests, and the end-to-end tests themselves."""
