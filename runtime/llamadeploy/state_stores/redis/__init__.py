"""The state store on Redis: what a deployment's control planes, orchestrators and workers share.

Every operation is one call of one Lua script (``lua/``), so it is atomic and takes one round trip;
calls made in the same turn of the event loop travel together. All keys of a deployment carry its
namespace as hash tag and so live on one node of a Cluster. Time is the server's.

What survives depends on the server's ``appendonly`` and ``appendfsync``: with ``always`` all that
was answered; with ``everysec`` a kill of the server loses nothing, a power failure up to a second;
without ``appendonly`` whatever came after the last snapshot is lost. ``maxmemory-policy`` must be
``noeviction``: an evicted key is a lost task.
"""
