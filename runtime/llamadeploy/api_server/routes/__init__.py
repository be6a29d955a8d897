"""The HTTP routes of the API server; each file is one part of the wire contract."""
