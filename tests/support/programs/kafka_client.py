# SPDX-License-Identifier: Apache-2.0
"""Sends to a Kafka and fetches from it, by one of two libraries, from several threads.

kafka_client.py LIBRARY PORT THREADS ROUNDS NAME [wait]. NAME: what its topics begin with. With `wait`: each connection is used, and then waits until something is said
on the standard input. What it has done its broker says.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import Any

LONG = b"s3cret" * 9_000  # one that a broker takes
TOO_LONG = b"s3cret" * 30_000
READY, GATE = threading.Barrier(int(sys.argv[3]) + 1), threading.Event()


def by_kafka_python(address: str, thread: int, rounds: int) -> None:
    """kafka-python, all in Python."""
    import kafka
    from kafka import errors

    options: dict[str, Any] = {"bootstrap_servers": address, "client_id": f"python-{thread}"}
    topics = [f"{sys.argv[5]}{thread}-{step}" for step in range(rounds)]
    with contextlib.closing(kafka.KafkaAdminClient(**options)) as admin:
        admin.create_topics([kafka.admin.NewTopic(name, 2, 1) for name in topics])
    producer = kafka.KafkaProducer(
        **options, linger_ms=20, max_request_size=1 << 20, enable_idempotence=False, retries=5
    )
    careless = kafka.KafkaProducer(**options, acks=0)
    consumer = kafka.KafkaConsumer(
        **options, group_id=f"group-{thread}", auto_offset_reset="earliest", enable_auto_commit=False
    )
    consumer.assign([kafka.TopicPartition(name, each) for name in topics for each in (0, 1)])
    wait(lambda: (producer.partitions_for(topics[0]), consumer.poll(100)))
    for name in topics:
        consumer.assign([kafka.TopicPartition(name, each) for each in (0, 1)])
        producer.send(name, b"s3cret", key=b"s3cret", headers=[("s3cret", b"s3cret")], partition=0).get(20)
        several = [producer.send(name, b"s3cret", partition=1) for _ in range(5)]
        both = [producer.send(name, b"s3cret", partition=each) for each in (0, 1)]
        for each in several + both:
            each.get(20)
        producer.send(name, LONG, partition=0).get(20)
        with contextlib.suppress(errors.KafkaError):
            producer.send(name, TOO_LONG, partition=0).get(20)
        careless.send(name, b"s3cret", partition=1)
        careless.flush()
        count = 0
        while count < 10:
            count += sum(len(each) for each in consumer.poll(500).values())
        consumer.commit()
        consumer.seek(kafka.TopicPartition(name, 0), 12345)
        consumer.poll(300)
    for each in (producer, careless, consumer):
        each.close()


def by_librdkafka(address: str, thread: int, rounds: int) -> None:
    """confluent-kafka, on librdkafka, whose own threads send."""
    import confluent_kafka as ck
    from confluent_kafka import admin

    options: dict[str, Any] = {"bootstrap.servers": address, "client.id": f"librd-{thread}"}
    topics = [f"{sys.argv[5]}{thread}-{step}" for step in range(rounds)]
    client = admin.AdminClient(options)
    for each in client.create_topics([admin.NewTopic(name, 2, 1) for name in topics]).values():
        each.result(20)
    producer = ck.Producer({**options, "message.max.bytes": 1 << 20, "linger.ms": 5})
    group = {"group.id": f"group-{thread}", "auto.offset.reset": "earliest", "enable.auto.commit": False}
    consumer = ck.Consumer({**options, **group})
    consumer.assign([ck.TopicPartition(name, each, 0) for name in topics for each in (0, 1)])
    wait(lambda: (producer.list_topics(topics[0], 20), consumer.poll(1)))
    for name in topics:
        for value in (b"s3cret", LONG, TOO_LONG):
            producer.produce(name, value, key=b"s3cret", headers={"s3cret": b"s3cret"}, partition=0)
            producer.flush(20)
        for _ in range(5):
            producer.produce(name, b"s3cret", partition=1)
        producer.flush(20)
        count = 0
        while count < 7:
            count += sum(each.error() is None for each in consumer.consume(10, 0.5))
        consumer.commit(offsets=[ck.TopicPartition(name, 0, 2)], asynchronous=False)
    consumer.close()


def wait(use: Any) -> None:
    """Until the others are here too."""
    if sys.argv[6:]:
        use()
    READY.wait()
    GATE.wait()


def main() -> None:
    """See above."""
    threading.excepthook = lambda each: (sys.excepthook(*each[:3]), os._exit(1))
    library, port, threads, rounds = sys.argv[1], *map(int, sys.argv[2:5])
    run = by_kafka_python if library == "kafka-python" else by_librdkafka
    workers = [threading.Thread(target=run, args=(f"127.0.0.1:{port}", each, rounds)) for each in range(threads)]
    for each in workers:
        each.start()
    READY.wait()
    if sys.argv[6:]:
        print("waiting", flush=True)
        sys.stdin.readline()
    GATE.set()
    for each in workers:
        each.join()


main()
