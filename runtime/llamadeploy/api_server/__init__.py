"""The API server: many deployments behind one port, an admin API over one backend.

``app`` and ``routes`` are HTTP, ``backends`` do the work, ``process`` is the entry point.
"""
