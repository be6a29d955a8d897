"""State stores: one contract (``base``), one set of records, one package per adapter.

``registry.open_store`` picks the adapter by the scheme of the URI.
"""
