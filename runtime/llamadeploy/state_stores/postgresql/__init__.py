"""The state store on PostgreSQL (``postgresql``, ``postgres``): any number of processes share it.

Each operation of the contract is one function in the database (``sql/``) and so one round trip and
one transaction, which operations that come at the same time share: a process that dies or is
stopped holds nothing open. Changes of one session wait
for each other on an advisory lock; what the timer puts right is taken from whoever is faster.
Leases count by the server's clock.

A change is announced with NOTIFY after its commit. Where an announcement gets lost (its process
died, a connection broke), followers are woken by a look at their tasks every few seconds.

What survives is PostgreSQL's own promise: with its default ``synchronous_commit = on`` everything
accepted, also after a power loss. PgBouncer works in session pooling alone: LISTEN and prepared
statements need a session.
"""
