"""The control plane of one deployment: use cases in process, and the HTTP API over them.

It never imports an adapter: a store and a queue are given to it.
"""
