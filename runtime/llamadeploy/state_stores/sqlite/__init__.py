"""The state store on SQLite: a file (``sqlite``) or the process's memory (``memory``).

One writer thread runs every change; whatever is queued at that moment shares one transaction
(``engine``). The SQL lives in one module per concern as plain functions of a transaction
(``transaction.Tx``) and a request; ``store`` gives them the shape of the contract.

What survives, by the URI's ``synchronous`` option:

=================  ======================  =====================================================
option             ``kill -9`` of us       power loss, kernel crash
=================  ======================  =====================================================
``normal`` (def.)  everything accepted     the file stays consistent, but what was accepted since
                                           the last checkpoint (about 16 MiB of log) may be gone
``full``           everything accepted     everything accepted, at one disk flush per batch
=================  ======================  =====================================================

``memory`` survives nothing: it ends with the process.
"""
