"""What is observed -> ``status``; pure.

The status of a Deployment::

    observedGeneration: 3
    conditions: [...]                       # all of reasons.Condition, in this order
    runtime: {image, templateRevision, version, redisImage, rabbitmqImage}      # the Pin
    topicNamespace: ns.name
    endpoints: {controlPlane: http://..., queue: http://... (simple only), ui: http://...}
    services:                               # sorted by name
    - {name: wire-name, workflowService: object, replicas: 2, readyReplicas: 2, ready: true,
       commit: 40 hex digits}

and that of a WorkflowService::

    observedGeneration: 3
    conditions: [...]
    serviceName: wire-name
    replicas: 2              # pods there are; of the scale subresource
    readyReplicas: 2
    allowedReplicas: 2       # what the delivery table makes of spec.replicas
    selector: a=b,c=d        # of the scale subresource; set at zero replicas too
    source: {hash, commit}   # what the pods run

A key is left out where it has nothing to say. No number that changes while nothing is decided.
"""

from __future__ import annotations
