"""The message queue on RabbitMQ (``rabbitmq``): competing consumers, a durable backlog.

What there is on the server, in one virtual host:

===============================  =================================================================
exchange ``<exchange_name>``     direct, durable; routing keys are the names of topics
queue ``<topic>``                quorum queue: survives a restart, and a node's loss in a cluster
queue ``<topic>.dead-letters``   what could not be read, or came back 1000 times; quorum queue
exchange ``<...>.dead-letters``  direct, durable: feeds them
queue ``<exchange_name>+topics`` the names of all topics (see ``directory``); quorum queue
exchange ``<...>.census``        direct: asks consumers how much they hold (see ``census``)
===============================  =================================================================

A worker's inbox is an exclusive queue that goes with its connection, bound under its topic.

- A publish returns when the server has confirmed it, on disk. A message that reaches no queue comes
  back (``mandatory``), and the publisher then makes the topic: the order in which publishers and
  consumers start does not matter.
- Messages handed back are delivered before those that nobody held yet; among themselves in the
  order in which they came back.
- Times a message was delivered say nothing about tasks: prefetched ones count, too. The limit is a
  backstop; attempts are counted in the state store.
- RabbitMQ 3.10 loses the newest quorum queue when it is killed within about a second: it starts
  without a leader and answers nobody. So a topic is sealed when it is made (``Topology.seal``), and
  a queue that answers nothing for half a minute is made anew (``Topics.silent``).
- What was given up is read by an orchestrator (``dead_letters``).
- A connection that publishes is stopped by a server short of memory: consumers have their own.
- The server closes the channel of a consumer that does not acknowledge for 30 minutes (its
  ``consumer_timeout``); the consumer opens another and the messages come again.
"""
