"""The message queue on Redis: a stream per topic and consumer groups.

========================  ============================  =========================================
``exclusive_mode``        groups of a topic             who gets a message
========================  ============================  =========================================
false (as in 0.8.1)       one per consumer              each of them (broadcast)
true                      one                           one of them (competing), durably
========================  ============================  =========================================

A message that is delivered is in its group's pending list, with its owner, until it is
acknowledged; in competing mode it is then deleted. Consumers give a sign of life every 2 s; one
that is silent for 6 s loses what it holds to the others. What is handed back gets the owner
``_back`` and a place in ``back:<group>``, from where consumers take before they read on. Every
change of ownership is one step of one Lua script that checks the owner, so that a consumer that
was stopped and wakes up neither acknowledges nor keeps what is somebody else's by now.

Keys, per topic: ``llamadeploy:queue:{<topic>}:`` and ``s`` (the stream), ``groups`` (by sign of
life), ``members:<group>`` (consumers by sign of life), ``back:<group>``, ``wake:<group>`` (a stream
of signals to consumers that wait), ``ephemeral`` (a mark). What could not be decoded is a topic
within the topic, with a stream and a group of its own: the same keys behind ``dead:``, and
``dead:ids`` (which messages of a broadcast are there, as every group finds them).
"""
