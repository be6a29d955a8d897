"""Metrics: what happened is counted in plain numbers, and becomes Prometheus text when asked for.

Nothing here is global: each process (and in it each deployment) has instruments of its own, and
only :mod:`llamadeploy.metrics.exposition` knows the Prometheus library, so that a process that is
never scraped does not load it. Instruments belong to one event loop and take no locks.
``docs/metrics.md`` lists every name.
"""
