"""The queue that needs no broker: in memory, in process or over HTTP."""
