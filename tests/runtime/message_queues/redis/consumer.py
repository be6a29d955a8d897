"""Takes messages, writes their ids, acknowledges all of them when told to."""

import asyncio
import sys

from llamadeploy.message_queues.redis.queue import RedisMessageQueue


async def main(uri: str, topic: str, prefetch: str, silence: str, exclusive: str) -> None:
    queue = RedisMessageQueue(url=uri, exclusive_mode=exclusive == "True", silence=float(silence))
    async with queue.consume(topic, group="g", prefetch=int(prefetch)) as consumer:
        held = []
        async for delivery in consumer:
            print(delivery.message.id_, flush=True)
            held.append(delivery)
            if len(held) == int(prefetch):
                break
        await asyncio.to_thread(sys.stdin.readline)
        for delivery in held:
            await delivery.ack()
        print("acknowledged", flush=True)
        await asyncio.to_thread(sys.stdin.readline)


asyncio.run(main(*sys.argv[1:]))
