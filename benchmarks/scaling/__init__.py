"""Autoscaling: a simulation of the operator's algorithm beside HPA's and KEDA's rules."""
