"""What follows from tasks: messages to the control plane, the outbox, lost leases, retention.

The loops run inside the control plane where its queue or store is not shared, else in processes of
their own, ``llamadeploy orchestrator``, of which any number compete for the same work.
"""
