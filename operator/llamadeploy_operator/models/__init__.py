"""The custom resources as Kubernetes sees them.

What a user writes is modelled in ``llamadeploy.spec.manifest``, because a laptop reads it too. Here
are the status, the rules in CEL, and the way from the models to CustomResourceDefinitions:
``python -m llamadeploy_operator.models.crd`` writes them.
"""
