"""The operator with a thousand Deployments on a real API server; pods are simulated by kwok."""
