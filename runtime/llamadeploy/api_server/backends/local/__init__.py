"""Deployments on this machine: the core in this process, each service replica in its own."""
