# SPDX-License-Identifier: Apache-2.0
"""Tracepoints as a folder describes them, sound and not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kernelspan_agent.errors import MachineError
from kernelspan_agent.probes.tracefs import Field, FieldKind, Place, Tracefs, parse_format

COMMON = """\
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

"""
HEAD = f"name: reaped\nID: 71\nformat:\n{COMMON}"
TAIL = '\nprint fmt: "%s; %d", __get_str(name), REC->pid\n'


def written(*lines: str) -> str:
    return HEAD + "".join(f"\t{line}\n" for line in lines) + TAIL


def field(line: str) -> Field:
    (found,) = parse_format("x", written(line))[1]
    return found


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("field:pid_t pid;\toffset:12;\tsize:4;\tsigned:1;", Field("pid", "pid_t", FieldKind.INTEGER, 12, 4, True)),
        ("field:bool on;\toffset:8;\tsize:1;\tsigned:0;", Field("on", "bool", FieldKind.INTEGER, 8, 1, False)),
        ("field:char comm[16];\toffset:8;\tsize:16;\tsigned:0;", Field("comm", "char[16]", FieldKind.STRING, 8, 16, False, elements=16, element_size=1)),
        ("field:__u8 saddr_v6[16];\toffset:8;\tsize:16;\tsigned:0;", Field("saddr_v6", "__u8[16]", FieldKind.ARRAY, 8, 16, False, elements=16, element_size=1)),
        ("field:unsigned long args[6];\toffset:16;\tsize:48;\tsigned:0;", Field("args", "unsigned long[6]", FieldKind.ARRAY, 16, 48, False, elements=6, element_size=8)),
        ("field:char comm[TASK_COMM_LEN];\toffset:8;\tsize:16;\tsigned:0;", Field("comm", "char[16]", FieldKind.STRING, 8, 16, False, elements=16, element_size=1)),
        ("field:gid_t some[3];\toffset:8;\tsize:12;\tsigned:0;", Field("some", "gid_t[]", FieldKind.ARRAY, 8, 12, False)),
        ("field:__data_loc char[] name;\toffset:8;\tsize:4;\tsigned:0;", Field("name", "char[]", FieldKind.STRING, 8, 4, False, Place.DATA_LOC, 0, 1)),
        ("field:__rel_loc u64[] values;\toffset:8;\tsize:4;\tsigned:0;", Field("values", "u64[]", FieldKind.ARRAY, 8, 4, False, Place.REL_LOC, 0, 8)),
        ("field:const char *const * argv;\toffset:8;\tsize:8;\tsigned:0;", Field("argv", "const char *const *", FieldKind.POINTER, 8, 8, False)),
        ("field:struct sockaddr * addr;\toffset:8;\tsize:8;\tsigned:0;", Field("addr", "struct sockaddr *", FieldKind.POINTER, 8, 8, False)),
        ("field:struct timespec64 when;\toffset:8;\tsize:16;\tsigned:0;", Field("when", "struct timespec64", FieldKind.STRUCT, 8, 16, False)),
        ("field:enum zone_type idx;\toffset:8;\tsize:4;\tsigned:0;", Field("idx", "enum zone_type", FieldKind.INTEGER, 8, 4, False)),
        ("field:unsigned nr;\toffset:8;\tsize:4;", Field("nr", "unsigned", FieldKind.INTEGER, 8, 4, False)),
    ],
    ids=lambda value: value.split(";")[0] if isinstance(value, str) else "",
)  # fmt: skip
def test_fields(line: str, expected: Field) -> None:
    """As Documentation/trace/events.rst has them, and as kernels write them."""
    assert field(line) == expected


def test_fields_a_program_may_not_read_are_apart() -> None:
    """The first eight bytes."""
    common, fields = parse_format("x", written("field:pid_t pid;\toffset:8;\tsize:4;\tsigned:1;"))
    assert [each.name for each in common] == ["common_type", "common_flags", "common_preempt_count", "common_pid"]
    assert [each.name for each in fields] == ["pid"]


def test_what_is_printed_is_no_field() -> None:
    """Whatever stands behind `print fmt`."""
    text = written("field:pid_t pid;\toffset:8;\tsize:4;\tsigned:1;") + "\tfield:pid_t other;\toffset:12;\tsize:4;\n"
    assert [each.name for each in parse_format("x", text)[1]] == ["pid"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no field"),
        ("name: x\nID: 1\nformat:\n", "no field"),
        (written("field:int;\toffset:8;\tsize:4;\tsigned:1;"), "field:int"),
        (written("field:int a b;\toffset:x;\tsize:4;\tsigned:1;"), "field:int a b"),
        (written("field:int a;\toffset:8;\tsize:-4;\tsigned:1;"), "size:-4"),
        (written("field:int a;\toffset:8000;\tsize:400;\tsigned:1;"), "beyond the record"),
        (written("field:char\x1b[2J a;\toffset:8;\tsize:1;\tsigned:1;"), "cannot be read"),
        (written("garbage"), "garbage"),
        (written(*[f"field:int a{n};\toffset:8;\tsize:4;\tsigned:1;" for n in range(300)]), "too many"),
    ],
)
def test_what_cannot_be_read_is_told(text: str, words: str) -> None:
    """With the line, and no guess."""
    with pytest.raises(MachineError, match=words) as told:
        parse_format("tracepoint a:b", text)
    assert told.value.reason == "ArgumentUnsupported"
    assert str(told.value).startswith("tracepoint a:b: ")


@given(st.text(max_size=300) | st.lists(st.sampled_from(["\tfield:", "int", " ", "x", "[", "]", ";", "\toffset:", "8", "\tsize:", "\tsigned:", "\n", "__data_loc ", "char", "*", "99999999"]), max_size=40).map("".join))  # fmt: skip
@example("\tfield:" + "a " * 256 + ";")
def test_any_text_gives_fields_or_an_error(text: str) -> None:
    """Never anything else; every field lies within a record."""
    for whole in (text, HEAD + text + TAIL):
        try:
            fields = parse_format("x", whole)[1]
        except MachineError:
            continue
        assert all(each.offset >= 8 and each.offset + each.size <= 8192 and each.name.isidentifier() for each in fields)


@pytest.fixture
def tracefs(tmp_path: Path) -> Tracefs:
    """Four events, of which one has no number, and one lists nothing."""
    (tmp_path / "available_events").write_text("sched:sched_switch\nsched:reaped\nnet:reaped\n\x1b[2J:x\nno colon\n")
    for name, number in (("sched/reaped", "71\n"), ("net/reaped", "x"), ("sched/sched_switch", "9")):
        folder = tmp_path / "events" / name
        folder.mkdir(parents=True)
        (folder / "id").write_text(number)
    (tmp_path / "events/sched/reaped/format").write_text(written("field:pid_t pid;\toffset:8;\tsize:4;\tsigned:1;"))
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/id").write_text("5")
    return Tracefs(tmp_path)


def test_a_tracepoint(tracefs: Tracefs) -> None:
    """Its number and its fields, by name."""
    found = tracefs.tracepoint("sched", "reaped")
    assert (found.number, found.field("pid").offset, tracefs.field_offset("sched", "reaped", "pid")) == (71, 8, 8)
    with pytest.raises(MachineError, match="no field pud") as told:
        found.field("pud")
    assert (told.value.reason, told.value.hint) == ("ArgumentUnsupported", "near it: pid")
    with pytest.raises(MachineError, match="no field zzz") as told:
        found.field("zzz")
    assert told.value.hint == "it has pid"
    with pytest.raises(MachineError, match="no field common_pid") as told:
        found.field("common_pid")
    assert "may not read" in told.value.hint


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*", [("net", "reaped"), ("sched", "reaped"), ("sched", "sched_switch")]),
        ("reaped", [("net", "reaped"), ("sched", "reaped")]),
        ("sched:*", [("sched", "reaped"), ("sched", "sched_switch")]),
        ("s*:re?ped", [("sched", "reaped")]),
        ("Reaped", []),
    ],
)
def test_events_by_a_glob(tracefs: Tracefs, pattern: str, found: list[tuple[str, str]]) -> None:
    """Over category and name, or over names; what is no event's name is left out."""
    assert tracefs.events(pattern) == found
    assert tracefs.categories() == ["net", "sched"]


@pytest.mark.parametrize(
    ("category", "event", "words", "hint"),
    [
        ("sched", "sched_swich", "no such event", "sched_switch"),
        ("shed", "reaped", "no such category", "sched"),
        ("..", "secret", "no such category", "list tracepoints"),
        ("../secret", "", "no such category", ""),
        ("sched", "", "no such event", "near it: sched:reaped"),
        ("sched", "reaped\0", "no such event", "reaped"),
        ("net", "reaped", "has no number", ""),
        ("sched", "sched_switch", "no such event", "sched_switch"),
    ],
)
def test_what_is_not_there(tracefs: Tracefs, category: str, event: str, words: str, hint: str) -> None:
    """With the nearest names; nothing outside the folder of events is read."""
    with pytest.raises(MachineError, match=words) as told:
        tracefs.tracepoint(category, event)
    assert told.value.reason == "TracepointNotFound"
    assert hint in told.value.hint


def test_a_format_without_end_is_read_to_a_bound(tracefs: Tracefs) -> None:
    """64 KiB of it."""
    path = tracefs.root / "events/sched/reaped/format"
    path.write_text(written(*["field:int a;\toffset:8;\tsize:4;\tsigned:1;"] * 4000))
    with pytest.raises(MachineError, match="too many fields"):
        tracefs.tracepoint("sched", "reaped")
    path.unlink()
    path.mkdir()
    with pytest.raises(MachineError, match="Is a directory"):
        tracefs.tracepoint("sched", "reaped")
