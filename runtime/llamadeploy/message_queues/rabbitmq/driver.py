"""The one importer of the driver, which is an extra, and its errors in the words of this package.

aiormq is what aio-pika is made of: its channels without aio-pika's objects per message.
"""

from __future__ import annotations

from llamadeploy.exceptions import MissingExtraError, QueueError, QueueUnavailableError

try:
    import aiormq
    from aiormq import exceptions, spec
    from aiormq.abc import DeliveredMessage
    from aiormq.channel import Channel
    from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
    from yarl import URL
except ImportError:
    raise MissingExtraError("the message queue 'rabbitmq'", "rabbitmq") from None

__all__ = [
    "CAUGHT",
    "URL",
    "Channel",
    "DeliveredMessage",
    "TCPTransportFactory",
    "TLSTransportFactory",
    "TransportFactory",
    "aiormq",
    "exceptions",
    "spec",
    "translate",
]

CAUGHT = (
    exceptions.AMQPError,
    exceptions.ChannelInvalidStateError,
    OSError,
    TimeoutError,
)
"""What a connection or channel raises."""

REFUSED = (
    exceptions.AuthenticationError,
    exceptions.ProbableAuthenticationError,
    exceptions.ConnectionNotAllowed,
    exceptions.ChannelAccessRefused,
    exceptions.ChannelPreconditionFailed,
)
"""What no repetition will change: login, virtual host, permissions, a queue of another kind."""


def translate(name: str, error: BaseException) -> QueueError:
    """The error to raise instead. ``name`` is the server as it may be shown."""
    text = str(error) or type(error).__name__
    if isinstance(error, TimeoutError) and not str(error):
        text = "no answer in time"
    # aiormq's way to say that the server ended the connection when it was asked for the host.
    no_host = isinstance(error, exceptions.InvalidFrameError) and "Connection.OpenOk" in text
    if no_host:
        text = "the virtual host of the url does not exist, or the user may not use it"
    message = f"message queue {name}: {text}"
    if isinstance(error, exceptions.ChannelPreconditionFailed):
        message += (
            "; a queue or exchange of this name was made by something else: delete it, or choose "
            "another exchange_name or topic_namespace"
        )
    if no_host or isinstance(error, REFUSED):
        return QueueError(message)
    return QueueUnavailableError(message)
