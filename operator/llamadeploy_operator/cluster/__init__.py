"""The way to the Kubernetes API: the only package that imports the Kubernetes client.

Nothing here decides what a child should look like (that is ``desired``); these modules read the
cluster, make it equal to what is desired, and say what they changed.
"""
