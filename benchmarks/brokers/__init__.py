"""Speed on durable brokers, side by side in one run: ours, llama-deploy 0.8.1, Dramatiq.

`python -m benchmarks.brokers --help` (a part of `make bench`) is the entry. Redis, RabbitMQ and
PostgreSQL are instances of the run's own, on free ports, with the settings that are documented for
production.
"""
