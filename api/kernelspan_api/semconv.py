# SPDX-License-Identifier: Apache-2.0
"""Every attribute name that kernelspan emits, once, with its stability.

OpenTelemetry's semantic conventions, SCHEMA_VERSION. A stable name is used wherever one exists; a name in development
only where there is no stable one; what the conventions do not know is ours and begins with `kernelspan.`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

SCHEMA_VERSION = "1.44.0"
SCHEMA_URL = f"https://opentelemetry.io/schemas/{SCHEMA_VERSION}"


class Stability(enum.Enum):
    """How far a name can be relied on."""

    STABLE = "stable"  # OpenTelemetry will not change it
    DEVELOPMENT = "development"  # OpenTelemetry may
    OURS = "kernelspan"  # changes only with a note in the changelog


class Kind(enum.Enum):
    """Type of an attribute's value."""

    STRING = "string"
    INT = "int"
    STRINGS = "string[]"


@dataclass(frozen=True, slots=True)
class Attribute:
    """One name. `values`: all it can have, where that is a closed set."""

    name: str
    stability: Stability
    kind: Kind
    meaning: str
    values: tuple[str, ...] = ()


ATTRIBUTES: dict[str, Attribute] = {}


def _add(name: str, stability: Stability, kind: Kind, meaning: str, *values: str) -> str:
    assert name not in ATTRIBUTES, name
    ATTRIBUTES[name] = Attribute(name, stability, kind, meaning, values)
    return name


_S, _D, _O = Stability
_TEXT, _INT, _TEXTS = Kind

# Code: the nearest App frame of an operation.
CODE_FUNCTION_NAME = _add(
    "code.function.name", _S, _TEXT, "Qualified name of the function, as far as the runtime tells."
)
CODE_FILE_PATH = _add("code.file.path", _S, _TEXT, "Its file, as the program's runtime names it.")
CODE_LINE_NUMBER = _add("code.line.number", _S, _INT, "The line it was at.")
CODE_STACKTRACE = _add("code.stacktrace", _S, _TEXT, "The whole stack; only with code.stackTrace: Attribute.")
CODE_ORIGIN = _add(
    "kernelspan.code.origin",
    _O,
    _TEXT,
    "Whose code the innermost frame is.",
    "App",
    "Library",
    "Runtime",
    "Native",
    "unknown",
)
CODE_MISSING = _add(
    "kernelspan.code.missing",
    _O,
    _TEXT,
    "Why frames are missing: all of them, or the outermost.",
    "RuntimePending",
    "Truncated",
    "Unresolved",
)
PROBE_NAME = _add("kernelspan.probe.name", _O, _TEXT, "The profile's own probe that the span is of.")
ARGUMENTS_MISSING = _add(
    "kernelspan.probe.arguments.missing", _O, _TEXT, "Why an own probe's arguments are not told.", "Lost"
)
LIBRARY_NAME = _add("kernelspan.library.name", _O, _TEXT, "The library nearest to the kernel, as its manager names it.")
LIBRARY_VERSION = _add("kernelspan.library.version", _O, _TEXT, "Its version, from the same place.")
LIBRARY_PURL = _add("kernelspan.library.purl", _O, _TEXT, "Its package URL.")
THREAD_NAME = _add("thread.name", _D, _TEXT, "The kernel's name of the thread.")
THREAD_ID = _add("thread.id", _D, _INT, "Thread id in the agent's PID namespace.")

# What an operation did.
ERROR_TYPE = _add("error.type", _S, _TEXT, "Name of the errno, where the operation failed.")
RESULT_NAME = _add(
    "kernelspan.result.name", _O, _TEXT, "Name of an errno that is no failure: EAGAIN, EINPROGRESS, EINTR, ETIMEDOUT."
)
FILE_PATH = _add("file.path", _D, _TEXT, "Absolute path in the program's root.")
FILE_TARGET_PATH = _add("kernelspan.file.target_path", _O, _TEXT, "The new path of a rename.")
NETWORK_TRANSPORT = _add("network.transport", _S, _TEXT, "Transport.", "tcp", "udp", "unix", "pipe", "quic")
NETWORK_TYPE = _add("network.type", _S, _TEXT, "Address family.", "ipv4", "ipv6")
NETWORK_PEER_ADDRESS = _add("network.peer.address", _S, _TEXT, "The other end: an address, or a Unix socket's path.")
NETWORK_PEER_PORT = _add("network.peer.port", _S, _INT, "The other end's port.")
NETWORK_LOCAL_ADDRESS = _add("network.local.address", _S, _TEXT, "This end: an address, or a Unix socket's path.")
NETWORK_LOCAL_PORT = _add("network.local.port", _S, _INT, "This end's port.")
NETWORK_PROTOCOL_NAME = _add("network.protocol.name", _S, _TEXT, "Protocol of a request.", "http", "dns")
NETWORK_PROTOCOL_VERSION = _add("network.protocol.version", _S, _TEXT, "Its version.")
HTTP_REQUEST_METHOD = _add("http.request.method", _S, _TEXT, "Method of a request.")
HTTP_RESPONSE_STATUS_CODE = _add("http.response.status_code", _S, _INT, "Status of the response.")
HTTP_ROUTE = _add("http.route", _S, _TEXT, "The one of the profile's routes that the path fits.")
HTTP_HEADERS = (
    "http.request.header.",
    "http.response.header.",
)  # stable; what follows is a header's name in small letters
RPC_SYSTEM_NAME = _add("rpc.system.name", _D, _TEXT, "The system of remote calls.", "grpc")
RPC_METHOD = _add("rpc.method", _D, _TEXT, "Service and method that were called: `package.Service/Method`.")
RPC_RESPONSE_STATUS_CODE = _add("rpc.response.status_code", _D, _TEXT, "The call's status by its name: `OK`.")
RPC_METADATA = (
    "rpc.request.metadata.",
    "rpc.response.metadata.",
)  # in development; what follows is a header's name in small letters
URL_PATH = _add("url.path", _S, _TEXT, "Path of a request.")
URL_SCHEME = _add("url.scheme", _S, _TEXT, "Scheme of a request.")
URL_QUERY = _add("url.query", _S, _TEXT, "Query of a request, with captureQuery.")
URL_FULL = _add("url.full", _S, _TEXT, "What was asked for, without user information; the query with captureQuery.")
SERVER_ADDRESS = _add("server.address", _S, _TEXT, "The server, as the client names it.")
SERVER_PORT = _add("server.port", _S, _INT, "The server's port.")
CLIENT_ADDRESS = _add("client.address", _S, _TEXT, "The other end of the server's connection.")
DB_SYSTEM_NAME = _add(
    "db.system.name", _S, _TEXT, "The database.", "redis", "postgresql", "mysql", "mariadb", "mongodb"
)
DB_OPERATION_NAME = _add("db.operation.name", _S, _TEXT, "The command, or the kind of statement.")
DB_QUERY_TEXT = _add("db.query.text", _S, _TEXT, "The command or statement, with `statement`: no value is in it.")
DB_QUERY_SUMMARY = _add("db.query.summary", _S, _TEXT, "Kinds of statement and the tables they are about.")
DB_COLLECTION_NAME = _add("db.collection.name", _S, _TEXT, "The table, where the statement is about one.")
DB_NAMESPACE = _add("db.namespace", _S, _TEXT, "The connection's database; of Redis its number.")
DB_RESPONSE_STATUS_CODE = _add(
    "db.response.status_code", _S, _TEXT, "The error's code: SQLSTATE, the number of MySQL or MongoDB, Redis' prefix."
)
MESSAGING_SYSTEM = _add("messaging.system", _D, _TEXT, "The system that messages go through.", "kafka")
MESSAGING_OPERATION_NAME = _add(
    "messaging.operation.name", _D, _TEXT, "What was done with messages.", "send", "poll", "commit"
)
MESSAGING_OPERATION_TYPE = _add(
    "messaging.operation.type", _D, _TEXT, "The same, as all systems call it.", "send", "receive", "settle"
)
MESSAGING_DESTINATION_NAME = _add(
    "messaging.destination.name", _D, _TEXT, "The topic, where the request is about one whose name is known."
)
MESSAGING_DESTINATION_PARTITION_ID = _add(
    "messaging.destination.partition.id", _D, _TEXT, "Its partition, where the request is about one."
)
MESSAGING_CLIENT_ID = _add("messaging.client.id", _D, _TEXT, "What the client calls itself.")
MESSAGING_CONSUMER_GROUP_NAME = _add(
    "messaging.consumer.group.name", _D, _TEXT, "The group of consumers whose offsets are committed."
)
MESSAGING_BATCH_MESSAGE_COUNT = _add(
    "messaging.batch.message_count", _D, _INT, "How many messages were sent, where the request was seen far enough."
)
MESSAGING_KAFKA_OFFSET = _add(
    "messaging.kafka.offset", _D, _INT, "Where the message that was sent is in its partition, if it was one."
)
DNS_QUESTION_NAME = _add("dns.question.name", _D, _TEXT, "The name that a name server is asked for.")
DNS_ANSWERS = _add("dns.answers", _D, _TEXTS, "The addresses among what it is answered with, where all are known.")
DNS_ANSWERS_MISSING = _add(
    "kernelspan.dns.answers.missing",
    _O,
    _TEXT,
    "Why `dns.answers` is not told: the server had no room for them, or they were not all seen, or are too many.",
    "Truncated",
    "Unseen",
)
DNS_QUESTION_TYPE = _add("kernelspan.dns.question.type", _O, _TEXT, "Type of the records that are asked for: A, AAAA.")
DNS_QUESTION_SENT = _add(
    "kernelspan.dns.question.sent", _O, _INT, "How often the question was sent to this server, where more than once."
)
DNS_RESPONSE_CODE = _add(
    "kernelspan.dns.response.code", _O, _TEXT, "The answer's code: NOERROR, NXDOMAIN; absent: no answer was seen."
)
TLS_PROTOCOL_NAME = _add("tls.protocol.name", _D, _TEXT, "The protocol that both ends agreed upon.", "tls", "ssl")
TLS_PROTOCOL_VERSION = _add("tls.protocol.version", _D, _TEXT, "Its version.", "1.0", "1.1", "1.2", "1.3", "3")
TLS_NEXT_PROTOCOL = _add(
    "tls.next_protocol", _D, _TEXT, "The protocol inside, as the server chose it (ALPN); TLS 1.3 hides that."
)
TLS_OFFERED_PROTOCOLS = _add(
    "kernelspan.tls.protocols.offered", _O, _TEXTS, "The protocols inside that the client is ready for (ALPN)."
)
IO_REQUESTED = _add("kernelspan.io.requested", _O, _INT, "Bytes that the program asked for.")
IO_TRANSFERRED = _add("kernelspan.io.transferred", _O, _INT, "Bytes that were read, written, sent or received.")
RESULT = _add("kernelspan.result", _O, _INT, "What the system call returned, where it is neither bytes nor an error.")
ARGUMENT = _add(
    "kernelspan.argument", _O, _INT, "The system call's deciding argument, where it has no name of its own."
)
SIGNAL_NUMBER = _add("kernelspan.signal.number", _O, _INT, "Number of the signal.")
CHILD_PID = _add("kernelspan.child.pid", _O, _INT, "The new process, in the agent's PID namespace.")
PROCESS_EXIT_CODE = _add("process.exit.code", _D, _INT, "Exit code; 128 + signal where a signal ended the process.")

# What a span is.
OPERATIONS = _add("kernelspan.operations", _O, _INT, "Operations seen inside the span.")
SPAN_BOUND = _add(
    "kernelspan.span.bound",
    _O,
    _TEXT,
    "How a function span relates to the calls: inside one, or several that cannot be told apart.",
    "Inner",
    "Merged",
)
CORRELATION = _add(
    "kernelspan.correlation",
    _O,
    _TEXT,
    "How the span was attached to its request; None: it was not.",
    "Thread",
    "Goroutine",
    "Task",
    "Fiber",
    "VirtualThread",
    "Connection",
    "Traceparent",
    "Peer",
    "None",
)
JOINED = _add("kernelspan.joined", _O, _TEXT, "Peer: the agent of another node told whose request it is.", "Peer")
TIME_ON_CPU = _add(
    "kernelspan.time.on_cpu",
    _O,
    _INT,
    "Nanoseconds for which the thread that served the request was on a CPU meanwhile.",
)
TIME_OFF_CPU = _add(
    "kernelspan.time.off_cpu", _O, _INT, "Nanoseconds for which it was not: it waited, or others had the CPU."
)
CLOCK_AHEAD = _add(
    "kernelspan.clock.ahead",
    _O,
    _INT,
    "Nanoseconds by which the clock of the parent's node is ahead of this one's at the least; negative: behind.",
)
SAMPLING = _add("kernelspan.sampling", _O, _TEXT, "Local: kept on this node alone, the trace may lack parts.", "Local")

# What made the spans.
SERVICE_NAME = _add("service.name", _S, _TEXT, "The service, in the order of OpenTelemetry's Kubernetes attributes.")
SERVICE_NAMESPACE = _add("service.namespace", _S, _TEXT, "The service's namespace.")
SERVICE_INSTANCE_ID = _add("service.instance.id", _S, _TEXT, "The instance.")
SERVICE_VERSION = _add("service.version", _S, _TEXT, "The service's version.")
DEPLOYMENT_ENVIRONMENT_NAME = _add("deployment.environment.name", _S, _TEXT, "As resourceAttributes give it.")
PROCESS_PID = _add("process.pid", _D, _INT, "Process id in the agent's PID namespace: on a node, the host's.")
PROCESS_VPID = _add("process.vpid", _D, _INT, "Process id inside the container.")
PROCESS_PARENT_PID = _add("process.parent_pid", _D, _INT, "The parent's process id, as process.pid.")
PROCESS_EXECUTABLE_NAME = _add("process.executable.name", _D, _TEXT, "Base name of the executable.")
PROCESS_EXECUTABLE_PATH = _add("process.executable.path", _D, _TEXT, "Path of the executable, in the program's root.")
PROCESS_COMMAND_LINE = _add("process.command_line", _D, _TEXT, "With redaction.commandLine: Keep or Hash.")
PROCESS_RUNTIME_NAME = _add("process.runtime.name", _D, _TEXT, "The runtime, such as cpython.")
PROCESS_RUNTIME_VERSION = _add("process.runtime.version", _D, _TEXT, "The runtime's version.")
TELEMETRY_SDK_LANGUAGE = _add("telemetry.sdk.language", _S, _TEXT, "Language of the traced program.")
TELEMETRY_SDK_NAME = _add("telemetry.sdk.name", _S, _TEXT, "Who made the spans: kernelspan.")
TELEMETRY_SDK_VERSION = _add("telemetry.sdk.version", _S, _TEXT, "kernelspan's version.")
TELEMETRY_DISTRO_NAME = _add("telemetry.distro.name", _S, _TEXT, "kernelspan.")
TELEMETRY_DISTRO_VERSION = _add("telemetry.distro.version", _S, _TEXT, "kernelspan's version.")
CONTAINER_ID = _add("container.id", _S, _TEXT, "The container runtime's id.")
HOST_NAME = _add("host.name", _D, _TEXT, "The machine's name.")
HOST_ARCH = _add("host.arch", _D, _TEXT, "The machine's architecture.", "amd64", "arm64")
OS_TYPE = _add("os.type", _D, _TEXT, "linux.", "linux")

K8S_CLUSTER_NAME = _add("k8s.cluster.name", _S, _TEXT, "The cluster, as the chart names it.")
K8S_NAMESPACE_NAME = _add("k8s.namespace.name", _S, _TEXT, "The pod's namespace.")
K8S_NODE_NAME = _add("k8s.node.name", _S, _TEXT, "The node.")
K8S_POD_NAME = _add("k8s.pod.name", _S, _TEXT, "The pod.")
K8S_POD_UID = _add("k8s.pod.uid", _S, _TEXT, "The pod's uid.")
K8S_CONTAINER_NAME = _add("k8s.container.name", _S, _TEXT, "The container's name in the pod.")
K8S_CONTAINER_RESTART_COUNT = _add("k8s.container.restart_count", _S, _INT, "Which start of the container it is.")
K8S_WORKLOADS = {  # kind: (name's attribute, uid's)
    kind: (
        _add(f"k8s.{kind.lower()}.name", _S, _TEXT, f"The {kind} that the pod belongs to."),
        _add(f"k8s.{kind.lower()}.uid", _S, _TEXT, f"Uid of the {kind}."),
    )
    for kind in ("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "CronJob")
}
