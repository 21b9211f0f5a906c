"""The audit: honest histories are always sound, and no single edit of the links of one is overlooked."""

from __future__ import annotations

import msgspec
from builders import Authority
from chains import Node, audited
from hypothesis import given
from hypothesis import strategies as st

from pmoves_mesh.core.envelope import SealedEvent

AUTHORITY = Authority()
IDENTITIES = {name: AUTHORITY.identity(name) for name in ("alpha", "beta")}
STEPS = st.lists(
    st.tuples(
        st.sampled_from(sorted(IDENTITIES)),
        st.sampled_from(["update", "announce", "repeat", "remove", "restart"]),
    ),
    min_size=2,
    max_size=25,
)


class Told:
    """An honest history, and which of its messages are links of a chain."""

    def __init__(self, steps: list[tuple[str, str]]) -> None:
        self.stream: list[SealedEvent] = []
        self.links: list[tuple[int, str]] = []
        nodes = {name: Node(name, identity) for name, identity in IDENTITIES.items()}
        announced: dict[str, SealedEvent] = {}
        for name, step in steps:
            node = nodes[name]
            match step:
                case "update":
                    self._link(name, node.update())
                case "announce":
                    announced[name] = node.announce()
                    self._link(name, announced[name])
                case "repeat" if name in announced:
                    self.stream.append(node.repeat(announced[name], len(self.stream)))
                case "remove":
                    removal, alias = node.remove()
                    self._link(name, removal)
                    self.stream.append(alias)
                case "restart":
                    node.restart()

    def _link(self, name: str, sealed: SealedEvent) -> None:
        self.links.append((len(self.stream), name))
        self.stream.append(sealed)

    def followed(self) -> list[int]:
        """Returns where links are that another of their node follows on."""
        last = {name: index for index, name in self.links}
        return [index for index, name in self.links if index != last[name]]


@given(STEPS)
def test_an_honest_history_is_sound(steps: list[tuple[str, str]]):
    assert audited(AUTHORITY, Told(steps).stream).sound


@given(STEPS, st.integers(0, 24))
def test_an_honest_history_whose_beginning_was_dropped_is_sound(steps: list[tuple[str, str]], cut: int):
    assert audited(AUTHORITY, Told(steps).stream[cut:], first=cut + 1).sound or cut == 0


@given(STEPS, st.data())
def test_a_link_that_was_taken_out_is_found_behind_its_place(
    steps: list[tuple[str, str]], data: st.DataObject
):
    told = Told(steps)
    if not (followed := told.followed()):
        return
    gone = data.draw(st.sampled_from(followed))
    report = audited(AUTHORITY, [*told.stream[:gone], *told.stream[gone + 1 :]])
    assert report.findings[0].reason == "gap"
    assert report.findings[0].position > gone


@given(STEPS, st.data())
def test_two_links_of_a_node_that_changed_places_are_found(steps: list[tuple[str, str]], data: st.DataObject):
    told = Told(steps)
    of_alpha = [index for index, name in told.links if name == "alpha"]
    if len(of_alpha) < 2:
        return
    one, other = sorted(data.draw(st.lists(st.sampled_from(of_alpha), min_size=2, max_size=2, unique=True)))
    stream = list(told.stream)
    stream[one], stream[other] = stream[other], stream[one]
    report = audited(AUTHORITY, stream)
    assert not report.sound
    assert report.findings[0].position == one + 1


@given(STEPS, st.data())
def test_a_flipped_bit_of_any_payload_is_found_where_it_is(steps: list[tuple[str, str]], data: st.DataObject):
    told = Told(steps)
    if not told.stream:
        return
    index = data.draw(st.integers(0, len(told.stream) - 1))
    payload = bytearray(told.stream[index].payload)
    bit = data.draw(st.integers(0, len(payload) * 8 - 1))
    payload[bit // 8] ^= 1 << bit % 8
    stream = list(told.stream)
    stream[index] = msgspec.structs.replace(stream[index], payload=bytes(payload))
    found = audited(AUTHORITY, stream).findings[0]
    assert (found.position, found.reason) == (index + 1, "bad_signature")
