"""One replica of a service: takes tasks from the queue and runs its workflow.

Only ``runner`` and what it is made of know the workflow library; ``contract`` is the border.
"""
