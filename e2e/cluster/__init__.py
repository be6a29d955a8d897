"""A real Kubernetes out of one Go binary, on a machine without Docker.

``build`` makes the binary once per user, ``control_plane`` runs etcd, kube-apiserver and
kube-controller-manager on free loopback ports with data in a temporary folder, ``api`` talks to
it, ``audit`` tells who wrote what, ``api_proxy`` breaks it on purpose, ``simulated_nodes`` makes
pods ready without running them. ``node`` adds a real node (root on Linux) in a network namespace.
"""
