"""The Kubernetes operator: reconciles ``Deployment`` and ``WorkflowService`` resources.

It may import only the pure modules of :mod:`llamadeploy` (``spec``, ``delivery``, ``settings``,
``messages``), so that the model of a deployment, environment names, ports and the delivery table
exist once.
"""

from llamadeploy._version import __version__

__all__ = ["__version__"]
