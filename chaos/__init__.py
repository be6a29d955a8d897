"""Real processes of a deployment on real brokers and stores: killed, stopped, cut off, under load.

``make chaos`` (``python -m chaos``) is the full form; ``tests/chaos`` runs a short one of the same
code with every test run. The table is in ``docs/reliability.md``.
"""
