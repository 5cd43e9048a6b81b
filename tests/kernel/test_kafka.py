# SPDX-License-Identifier: Apache-2.0
"""Kafka's own broker and its clients, unmodified: spans that say what was sent, fetched and committed, and what came of it.

What is right is what the broker's log says of each request that it has answered. Every round of every thread has a topic of its own.
"""

from __future__ import annotations

import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernelspan_agent.protocols.kafkaerrors import error_name
from kernelspan_api.subjects import Protocol
from tests.support import databases, kafkas, runs
from tests.support.otlp_json import ReceivedSpan

pytestmark = pytest.mark.root
THREADS, ROUNDS = 2, 4
SHORT_BYTES, LONG_BYTES = 1_500, 8_000  # of records: an answer that is seen whole, one that certainly is not
OPERATIONS = {"PRODUCE": "send", "FETCH": "poll", "OFFSET_COMMIT": "commit"}
LIBRARIES = ["kafka-python", "librdkafka", "java"]
NOT_LOGGED = "?"  # the name of a topic of which the broker has not yet noted that it told it
Said = tuple[str, str, str, str, str, str]
"""Operation, client, topic, partition, group, error."""
Requests = list[dict[str, Any]]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kafkas.Broker]:
    """One for all tests that do not trace it."""
    with kafkas.kafka(tmp_path_factory.mktemp("kafka")) as started:
        yield started


def profile(folder: Path, *roles: str) -> Path:
    """All protocols: its requests are none of another's."""
    requests = [{"protocol": each.value, "roles": roles} for each in Protocol]
    return runs.profile(folder, requests=requests, code={"functions": True})


def client(library: str, port: int, name: str, *options: str) -> list[str | Path]:
    """What runs one, whose topics begin with the name."""
    arguments = [str(port), str(THREADS), str(ROUNDS), name, *options]
    if library == "java":
        return kafkas.java("KafkaClient", *arguments)
    return [kafkas.python(), runs.PROGRAMS / "kafka_client.py", library, *arguments]


def topics(log: Requests) -> dict[str, str]:
    """Names of topics by their ids, as the broker has told them."""
    told = [topic for each in log if each["response"] for topic in each["response"].get("topics", [])]
    return {topic["topicId"]: topic["name"] for topic in told if "topicId" in topic and topic.get("name")}


def expected(log: Requests, names: dict[str, str], *, sees_records: bool = True) -> Counter[Said]:
    """What the broker has answered that is told. `sees_records`: else what is behind them in an answer is not seen."""
    found = Counter[Said]()
    for each in log:
        name, request, response = each["requestHeader"]["requestApiKeyName"], each["request"], each["response"]
        if name == "PRODUCE":
            asked, answered = (
                parts(request["topicData"], names),
                parts(response["responses"] if response else [], names),
            )
        elif name == "OFFSET_COMMIT":
            asked, answered = parts(request["topics"], names), parts(response["topics"], names)
        elif name == "FETCH":
            answered = parts(response["responses"], names)
            asked = read(answered, sees_records=sees_records)
            if asked is None:
                continue
        else:
            continue
        errors = [part["errorCode"] for _, _, part in answered]
        error = error_name(next((code for code in [response and response.get("errorCode", 0), *errors] if code), 0))
        about, only = {topic for topic, _, _ in asked}, {(topic, number) for topic, number, _ in asked}
        found[
            OPERATIONS[name],
            each["requestHeader"]["clientId"],
            about.pop() if len(about) == 1 else "",
            str(only.pop()[1]) if len(only) == 1 else "",
            request.get("groupId", "") if name == "OFFSET_COMMIT" else "",
            error,
        ] += 1
    return found


Parts = list[tuple[str, int, dict[str, Any]]]


def parts(listed: Requests, names: dict[str, str]) -> Parts:
    """Topic, number and all else of each partition."""
    found: Parts = []
    for topic in listed:
        name = topic.get("name") or topic.get("topic") or names.get(topic["topicId"], NOT_LOGGED)
        inside = next(topic[key] for key in ("partitionData", "partitionResponses", "partitions") if key in topic)
        found += [(name, part.get("index", part.get("partitionIndex")), part) for part in inside]
    return found


def read(answered: Parts, *, sees_records: bool) -> Parts | None:
    """What was fetched, as far as an answer that is too long to be seen can say; None: nothing."""
    full = [each for each in answered if each[2]["recordsSizeInBytes"] or each[2]["errorCode"]]
    if not full:
        return None
    size = sum(each[2]["recordsSizeInBytes"] for each in full)
    assert not SHORT_BYTES < size < LONG_BYTES
    if size < (SHORT_BYTES if sees_records else 1):
        return full
    return answered if len({topic for topic, _, _ in answered}) == 1 else [*full, ("another", 0, {}), ("one", 0, {})]


def said(found: list[ReceivedSpan], port: int) -> Counter[Said]:
    """What the spans say."""
    counted = Counter[Said]()
    types = {"send": "send", "poll": "receive", "commit": "settle"}
    for span in found:
        attributes = span.attributes
        assert "s3cret" not in str(span)
        assert (attributes["messaging.system"], attributes["server.port"]) == ("kafka", port)
        assert (span.status == "ERROR") == ("error.type" in attributes)
        operation, topic = (
            str(attributes["messaging.operation.name"]),
            str(attributes.get("messaging.destination.name", "")),
        )
        assert attributes["messaging.operation.type"] == types[operation]
        assert span.name == f"{operation} {topic or f'127.0.0.1:{port}'}"
        counted[
            operation,
            str(attributes["messaging.client.id"]),
            topic,
            str(attributes.get("messaging.destination.partition.id", "")),
            str(attributes.get("messaging.consumer.group.name", "")),
            str(attributes.get("error.type", "")),
        ] += 1
        assert 0 < span.start_ns <= span.end_ns
    return counted


def offsets(log: Requests) -> Counter[int]:
    """Where the broker has put what was sent to one partition, and has been acknowledged."""
    found = Counter[int]()
    for each in log:
        if each["requestHeader"]["requestApiKeyName"] == "PRODUCE" and each["response"]:
            answered = [part for topic in each["response"]["responses"] for part in topic["partitionResponses"]]
            if len(answered) == 1 and not answered[0]["errorCode"]:
                found[answered[0]["baseOffset"]] += 1
    return found


def spans_of(ran: runs.Run) -> list[ReceivedSpan]:
    """Those of Kafka's requests, which are all requests that there are."""
    assert not [span for span in ran.spans if {"db.system.name", "network.protocol.name"} & span.attributes.keys()]
    return [span for span in ran.spans if "messaging.system" in span.attributes]


def check_sent(found: list[ReceivedSpan], log: Requests, messages: int) -> None:
    """How many messages, and where they are: `messages`: that each topic has in the end."""
    sent = [span for span in found if span.attributes["messaging.operation.name"] == "send"]
    counts: dict[str, int] = defaultdict(int)
    for span in sent:
        if span.status != "ERROR":
            counts[str(span.attributes["messaging.destination.name"])] += int(
                str(span.attributes["messaging.batch.message_count"])
            )
    assert set(counts.values()) == {messages}
    told = Counter(int(str(at)) for span in sent if (at := span.attributes.get("messaging.kafka.offset")) is not None)
    assert told <= offsets(log)
    assert told.total() >= THREADS * ROUNDS * 2


@pytest.mark.parametrize("library", LIBRARIES)
def test_client(broker: kafkas.Broker, library: str, tmp_path: Path) -> None:
    """Batches, long messages, refused ones, those that nobody acknowledges, offsets that there are not: each request once."""
    before = len(broker.log)
    ran = runs.run(tmp_path, profile(tmp_path, "Client"), *client(library, broker.port, f"new-{library}-"))
    assert ran.status == 0, ran.stderr
    found = spans_of(ran)

    def is_logged() -> bool:
        log = broker.log[before:]
        answered = expected(log, topics(log))
        return not said(found, broker.port) - answered and NOT_LOGGED not in {topic for _, _, topic, *_ in answered}

    databases.until(is_logged, "Kafka has noted what it has answered")  # which it does after it has sent the answer
    log = broker.log[before:]
    wanted = expected(log, topics(log))
    assert {span.kind for span in found} == {"CLIENT"}
    assert said(found, broker.port) == wanted
    assert {"", "MESSAGE_TOO_LARGE"} <= {error for *_, error in wanted}
    assert library != "kafka-python" or any("OFFSET_OUT_OF_RANGE" in each for each in wanted)
    if library == "java":  # whose commits the thread that asks sends itself; the others have threads for it
        by_id = {span.span_id: span for span in ran.spans}
        commits = [span for span in found if span.attributes["messaging.operation.name"] == "commit"]
        assert all("round" in databases.names_above(span, by_id) for span in commits)
    check_sent(found, log, 10 if library == "kafka-python" else 7)


@pytest.mark.parametrize("library", LIBRARIES)
def test_client_that_was_there_before(broker: kafkas.Broker, library: str, tmp_path: Path) -> None:
    """Its connections are joined in their middle: nothing that is told is wrong, and names are missing only where they were told before."""
    before = len(broker.log)
    command = client(library, broker.port, f"old-{library}-", "wait")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stdout.readline() == b"waiting\n"
        with runs.attached(tmp_path, profile(tmp_path, "Client"), "--pid", str(program.pid)) as agent:
            joined = len(broker.log)
            program.communicate(b"\n", timeout=runs.TIMEOUT_SECONDS)
            ran = agent.finish()
    assert program.returncode == 0
    assert broker.log[before:joined]
    told, wanted = said(spans_of(ran), broker.port), expected(broker.log[before:], topics(broker.log))
    nameless = told - wanted
    assert all(not topic for _, _, topic, *_ in nameless)
    assert nameless.total() <= (wanted - told).total() < wanted.total() / 2


def test_broker(tmp_path: Path) -> None:
    """The broker itself, traced: the same from the other end."""
    with (
        kafkas.prepared(tmp_path) as broker,
        runs.agent(tmp_path, profile(tmp_path, "Server"), *broker.command) as started,
    ):
        started.wait_until(lambda: databases.is_listening(broker.port), "Kafka answers")
        for library in LIBRARIES:
            subprocess.run(client(library, broker.port, library), check=True, stdout=subprocess.DEVNULL)
        ran = started.stop(15)
        log = broker.log
    found = spans_of(ran)
    assert {(span.kind, span.parent_span_id, span.attributes["kernelspan.correlation"]) for span in found} == {
        ("SERVER", "", "None")
    }
    told = said(found, broker.port)
    wanted = expected(log, topics(log), sees_records=False)  # they are sent from its files
    # A topic that is called by its id has a name once an answer that names it was seen; of one that was just made it may not have been.
    nameless = told - wanted
    assert {(error, topic) for _, _, topic, _, _, error in nameless} <= {("UNKNOWN_LEADER_EPOCH", "")}
    unnamed = Counter((what, who, "", "", group, error) for what, who, _, _, group, error in (wanted - told).elements())
    assert nameless == unnamed


def test_the_example(broker: kafkas.Broker, tmp_path: Path) -> None:
    """examples/23-kafka.yaml."""
    example = Path(__file__).resolve().parents[2] / "examples" / "23-kafka.yaml"
    ran = runs.run(tmp_path, example, *client("kafka-python", broker.port, "example-"))
    assert ran.status == 0, ran.stderr
    names = {span.name for span in spans_of(ran)}
    assert {f"{what} example-{thread}-0" for what in ("send", "poll") for thread in range(THREADS)} <= names
    assert "s3cret" not in str([(span.name, span.attributes) for span in ran.spans])


LIKE_IT = """
import socket, struct
framed = lambda body: struct.pack(">i", len(body)) + body
MESSAGES = [
    framed(struct.pack(">iii", 3, 4, 5) + b"/path" + bytes(1)),  # ZooKeeper: a number, a kind, a path
    framed(struct.pack(">i", 4) + b"ping" + bytes(5)),  # Thrift, its old form: a name
    struct.pack(">bbhbi", 4, 0, 1, 5, 0) + bytes(9),  # Cassandra
    framed(struct.pack(">hhih", 150, 1, 7, 2) + b"me"),  # a key that there is not
    framed(struct.pack(">hhih", 3, 9, -7, 2) + b"me"),  # a number that cannot be
    framed(struct.pack(">hhih", 3, 9, 7, 300) + b"me"),  # a name that is too long
    struct.pack(">ihhih", 90, 3, 9, 7, 2) + b"me",  # more is to come, and it is nothing that is produced
]
with socket.create_server(("127.0.0.1", 0)) as server:
    for message in MESSAGES:
        for alone in (False, True):
            one = socket.create_connection(server.getsockname())
            other, _ = server.accept()
            for each in range(3):
                one.sendall(message)
                if alone:
                    other.recv(4)
                other.recv(1000)
"""


def test_what_is_like_it(tmp_path: Path) -> None:
    """Other protocols begin with a length too."""
    script = tmp_path / "like.py"
    script.write_text(LIKE_IT)
    ran = runs.run(tmp_path, profile(tmp_path, "Server", "Client"), runs.SYSTEM_PYTHON, script)
    assert ran.status == 0, ran.stderr
    assert not spans_of(ran)
    assert ran.report["requests"]["seen"] == ran.report["requests"]["unreadable"] == 0
