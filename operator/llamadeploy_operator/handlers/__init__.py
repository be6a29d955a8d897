"""kopf's part: it watches the custom resources and their children, and says whose key is due.

Only *event* handlers. No create, update or delete handlers, timers or daemons: those would make
kopf put finalizers and annotations on objects. This package and ``__main__`` alone import kopf.
"""
