"""Where a service's code comes from; one file per source type, the table in ``registry``.

A source writes into the folder it is given and nowhere else.
"""
