"""Python environments for services: one per set of dependencies, built once, then used offline."""
