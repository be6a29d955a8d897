"""What pods do before a worker starts: ``llamadeploy resolve`` pins a source and its dependencies,
``llamadeploy prepare`` puts what was pinned in place."""
