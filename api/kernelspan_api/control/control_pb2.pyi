from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Enquiry(_message.Message):
    __slots__ = ("endpoint", "addresses")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    endpoint: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, endpoint: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ...) -> None: ...

class Introduction(_message.Message):
    __slots__ = ("identity", "locations")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    LOCATIONS_FIELD_NUMBER: _ClassVar[int]
    identity: Identity
    locations: _containers.RepeatedCompositeFieldContainer[Location]
    def __init__(self, identity: _Optional[_Union[Identity, _Mapping]] = ..., locations: _Optional[_Iterable[_Union[Location, _Mapping]]] = ...) -> None: ...

class Identity(_message.Message):
    __slots__ = ("certificate", "key")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    key: bytes
    def __init__(self, certificate: _Optional[bytes] = ..., key: _Optional[bytes] = ...) -> None: ...

class Location(_message.Message):
    __slots__ = ("address", "neighbour")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOUR_FIELD_NUMBER: _ClassVar[int]
    address: str
    neighbour: Neighbour
    def __init__(self, address: _Optional[str] = ..., neighbour: _Optional[_Union[Neighbour, _Mapping]] = ...) -> None: ...

class Neighbour(_message.Message):
    __slots__ = ("node", "endpoint")
    NODE_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    node: str
    endpoint: str
    def __init__(self, node: _Optional[str] = ..., endpoint: _Optional[str] = ...) -> None: ...

class ExchangeQuery(_message.Message):
    __slots__ = ("questions",)
    QUESTIONS_FIELD_NUMBER: _ClassVar[int]
    questions: _containers.RepeatedCompositeFieldContainer[Question]
    def __init__(self, questions: _Optional[_Iterable[_Union[Question, _Mapping]]] = ...) -> None: ...

class Question(_message.Message):
    __slots__ = ("id", "exchange", "said", "profile_uid")
    ID_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    SAID_FIELD_NUMBER: _ClassVar[int]
    PROFILE_UID_FIELD_NUMBER: _ClassVar[int]
    id: int
    exchange: int
    said: int
    profile_uid: str
    def __init__(self, id: _Optional[int] = ..., exchange: _Optional[int] = ..., said: _Optional[int] = ..., profile_uid: _Optional[str] = ...) -> None: ...

class ExchangeAnswer(_message.Message):
    __slots__ = ("sent_ns", "verdicts")
    SENT_NS_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    sent_ns: int
    verdicts: _containers.RepeatedCompositeFieldContainer[Verdict]
    def __init__(self, sent_ns: _Optional[int] = ..., verdicts: _Optional[_Iterable[_Union[Verdict, _Mapping]]] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("id", "outcome", "arrived_ns", "start_ns", "end_ns", "trace_high", "trace_low", "span_id", "sampled")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUTCOME_UNSPECIFIED: _ClassVar[Verdict.Outcome]
        OUTCOME_FOUND: _ClassVar[Verdict.Outcome]
        OUTCOME_NOBODY: _ClassVar[Verdict.Outcome]
        OUTCOME_AMBIGUOUS: _ClassVar[Verdict.Outcome]
        OUTCOME_REFUSED: _ClassVar[Verdict.Outcome]
        OUTCOME_PENDING: _ClassVar[Verdict.Outcome]
    OUTCOME_UNSPECIFIED: Verdict.Outcome
    OUTCOME_FOUND: Verdict.Outcome
    OUTCOME_NOBODY: Verdict.Outcome
    OUTCOME_AMBIGUOUS: Verdict.Outcome
    OUTCOME_REFUSED: Verdict.Outcome
    OUTCOME_PENDING: Verdict.Outcome
    ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ARRIVED_NS_FIELD_NUMBER: _ClassVar[int]
    START_NS_FIELD_NUMBER: _ClassVar[int]
    END_NS_FIELD_NUMBER: _ClassVar[int]
    TRACE_HIGH_FIELD_NUMBER: _ClassVar[int]
    TRACE_LOW_FIELD_NUMBER: _ClassVar[int]
    SPAN_ID_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_FIELD_NUMBER: _ClassVar[int]
    id: int
    outcome: Verdict.Outcome
    arrived_ns: int
    start_ns: int
    end_ns: int
    trace_high: int
    trace_low: int
    span_id: int
    sampled: bool
    def __init__(self, id: _Optional[int] = ..., outcome: _Optional[_Union[Verdict.Outcome, str]] = ..., arrived_ns: _Optional[int] = ..., start_ns: _Optional[int] = ..., end_ns: _Optional[int] = ..., trace_high: _Optional[int] = ..., trace_low: _Optional[int] = ..., span_id: _Optional[int] = ..., sampled: _Optional[bool] = ...) -> None: ...

class NodePlan(_message.Message):
    __slots__ = ("hash", "node", "revision", "operator_version", "profiles", "pods", "secrets")
    HASH_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROFILES_FIELD_NUMBER: _ClassVar[int]
    PODS_FIELD_NUMBER: _ClassVar[int]
    SECRETS_FIELD_NUMBER: _ClassVar[int]
    hash: str
    node: str
    revision: int
    operator_version: str
    profiles: _containers.RepeatedCompositeFieldContainer[ProfilePlan]
    pods: _containers.RepeatedCompositeFieldContainer[PodPlan]
    secrets: _containers.RepeatedCompositeFieldContainer[ExportSecret]
    def __init__(self, hash: _Optional[str] = ..., node: _Optional[str] = ..., revision: _Optional[int] = ..., operator_version: _Optional[str] = ..., profiles: _Optional[_Iterable[_Union[ProfilePlan, _Mapping]]] = ..., pods: _Optional[_Iterable[_Union[PodPlan, _Mapping]]] = ..., secrets: _Optional[_Iterable[_Union[ExportSecret, _Mapping]]] = ...) -> None: ...

class ExportSecret(_message.Message):
    __slots__ = ("profile_uid", "headers", "ca", "certificate", "key")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PROFILE_UID_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    CA_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    profile_uid: str
    headers: _containers.ScalarMap[str, str]
    ca: bytes
    certificate: bytes
    key: bytes
    def __init__(self, profile_uid: _Optional[str] = ..., headers: _Optional[_Mapping[str, str]] = ..., ca: _Optional[bytes] = ..., certificate: _Optional[bytes] = ..., key: _Optional[bytes] = ...) -> None: ...

class ProfilePlan(_message.Message):
    __slots__ = ("uid", "kind", "namespace", "name", "generation", "spec")
    UID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    uid: str
    kind: str
    namespace: str
    name: str
    generation: int
    spec: bytes
    def __init__(self, uid: _Optional[str] = ..., kind: _Optional[str] = ..., namespace: _Optional[str] = ..., name: _Optional[str] = ..., generation: _Optional[int] = ..., spec: _Optional[bytes] = ...) -> None: ...

class PodPlan(_message.Message):
    __slots__ = ("uid", "namespace", "name", "workload", "containers", "labels", "matches", "static_hash")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    UID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    MATCHES_FIELD_NUMBER: _ClassVar[int]
    STATIC_HASH_FIELD_NUMBER: _ClassVar[int]
    uid: str
    namespace: str
    name: str
    workload: Workload
    containers: _containers.RepeatedCompositeFieldContainer[Container]
    labels: _containers.ScalarMap[str, str]
    matches: _containers.RepeatedCompositeFieldContainer[MatchSet]
    static_hash: str
    def __init__(self, uid: _Optional[str] = ..., namespace: _Optional[str] = ..., name: _Optional[str] = ..., workload: _Optional[_Union[Workload, _Mapping]] = ..., containers: _Optional[_Iterable[_Union[Container, _Mapping]]] = ..., labels: _Optional[_Mapping[str, str]] = ..., matches: _Optional[_Iterable[_Union[MatchSet, _Mapping]]] = ..., static_hash: _Optional[str] = ...) -> None: ...

class Workload(_message.Message):
    __slots__ = ("kind", "name")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    kind: str
    name: str
    def __init__(self, kind: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class Container(_message.Message):
    __slots__ = ("name", "id", "restart_count")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    RESTART_COUNT_FIELD_NUMBER: _ClassVar[int]
    name: str
    id: str
    restart_count: int
    def __init__(self, name: _Optional[str] = ..., id: _Optional[str] = ..., restart_count: _Optional[int] = ...) -> None: ...

class MatchSet(_message.Message):
    __slots__ = ("profile_uid", "all_containers", "containers")
    PROFILE_UID_FIELD_NUMBER: _ClassVar[int]
    ALL_CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    profile_uid: str
    all_containers: bool
    containers: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, profile_uid: _Optional[str] = ..., all_containers: _Optional[bool] = ..., containers: _Optional[_Iterable[str]] = ...) -> None: ...

class NodeReport(_message.Message):
    __slots__ = ("hello", "state", "heartbeat")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    state: State
    heartbeat: Heartbeat
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., state: _Optional[_Union[State, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("node", "agent_version", "revision", "kernel", "architecture", "capabilities", "mechanisms", "plan_hash")
    NODE_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    KERNEL_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    MECHANISMS_FIELD_NUMBER: _ClassVar[int]
    PLAN_HASH_FIELD_NUMBER: _ClassVar[int]
    node: str
    agent_version: str
    revision: int
    kernel: str
    architecture: str
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    mechanisms: _containers.RepeatedScalarFieldContainer[str]
    plan_hash: str
    def __init__(self, node: _Optional[str] = ..., agent_version: _Optional[str] = ..., revision: _Optional[int] = ..., kernel: _Optional[str] = ..., architecture: _Optional[str] = ..., capabilities: _Optional[_Iterable[str]] = ..., mechanisms: _Optional[_Iterable[str]] = ..., plan_hash: _Optional[str] = ...) -> None: ...

class State(_message.Message):
    __slots__ = ("plan_hash", "profiles")
    PLAN_HASH_FIELD_NUMBER: _ClassVar[int]
    PROFILES_FIELD_NUMBER: _ClassVar[int]
    plan_hash: str
    profiles: _containers.RepeatedCompositeFieldContainer[ProfileState]
    def __init__(self, plan_hash: _Optional[str] = ..., profiles: _Optional[_Iterable[_Union[ProfileState, _Mapping]]] = ...) -> None: ...

class ProfileState(_message.Message):
    __slots__ = ("uid", "generation", "reason", "message", "probes", "processes", "runtimes", "counters", "export_reason")
    UID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PROBES_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    RUNTIMES_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    EXPORT_REASON_FIELD_NUMBER: _ClassVar[int]
    uid: str
    generation: int
    reason: str
    message: str
    probes: _containers.RepeatedCompositeFieldContainer[ProbeState]
    processes: int
    runtimes: _containers.RepeatedCompositeFieldContainer[RuntimeCount]
    counters: Counters
    export_reason: str
    def __init__(self, uid: _Optional[str] = ..., generation: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., probes: _Optional[_Iterable[_Union[ProbeState, _Mapping]]] = ..., processes: _Optional[int] = ..., runtimes: _Optional[_Iterable[_Union[RuntimeCount, _Mapping]]] = ..., counters: _Optional[_Union[Counters, _Mapping]] = ..., export_reason: _Optional[str] = ...) -> None: ...

class ProbeState(_message.Message):
    __slots__ = ("name", "state", "mechanism", "reason", "message")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MECHANISM_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: str
    mechanism: str
    reason: str
    message: str
    def __init__(self, name: _Optional[str] = ..., state: _Optional[str] = ..., mechanism: _Optional[str] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class RuntimeCount(_message.Message):
    __slots__ = ("runtime", "processes", "unwinding", "reason", "message")
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    UNWINDING_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    runtime: str
    processes: int
    unwinding: int
    reason: str
    message: str
    def __init__(self, runtime: _Optional[str] = ..., processes: _Optional[int] = ..., unwinding: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Counters(_message.Message):
    __slots__ = ("seen", "exported", "filtered", "sampled_out", "rate_limited", "in_flight", "dropped")
    SEEN_FIELD_NUMBER: _ClassVar[int]
    EXPORTED_FIELD_NUMBER: _ClassVar[int]
    FILTERED_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_OUT_FIELD_NUMBER: _ClassVar[int]
    RATE_LIMITED_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    seen: int
    exported: int
    filtered: int
    sampled_out: int
    rate_limited: int
    in_flight: int
    dropped: int
    def __init__(self, seen: _Optional[int] = ..., exported: _Optional[int] = ..., filtered: _Optional[int] = ..., sampled_out: _Optional[int] = ..., rate_limited: _Optional[int] = ..., in_flight: _Optional[int] = ..., dropped: _Optional[int] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("plan_hash",)
    PLAN_HASH_FIELD_NUMBER: _ClassVar[int]
    plan_hash: str
    def __init__(self, plan_hash: _Optional[str] = ...) -> None: ...
