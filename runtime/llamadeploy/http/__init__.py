"""What every HTTP server and client of ours is made of; nothing here knows a route.

Servers: ``serving`` (an embedded server, probes, token), ``protocol`` and ``bounded_protocol`` (one
write per reply, limits of a request's head), ``hot_routes`` (endpoints called before the router),
``protection`` (foreign web pages, headers of replies), ``exposure`` (no listening beyond this
machine without a token). Clients: ``client`` (keep-alive, for workers).
"""
