import itertools
import pickle
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conveyor_server.settings import Settings
from conveyor_server.wire.status import STATUS_OF
from conveyor_server.workers.frames import MAX_BYTES, Frame, FrameBroken, FrameReader, Kind
from conveyor_server.workers.sayings import Briefing, Change, State, Topic

bodies = st.one_of(
    st.none(),
    st.binary(max_size=300),
    st.text(max_size=30),
    st.builds(State, loaded=st.booleans(), answers=st.booleans(), served=st.lists(st.text()).map(tuple)),
    st.lists(st.builds(Change, model=st.text(), load=st.booleans(), config=st.none() | st.binary())),
)
frames = st.builds(Frame, st.sampled_from(Kind), st.sampled_from(Topic), bodies, st.integers(0, 2**40), st.booleans())


@given(st.lists(frames, max_size=8), st.lists(st.integers(0, 2000), max_size=12))
def test_frames_come_out_whole_however_the_bytes_are_cut(said, cuts):
    data = b"".join(frame.encode() for frame in said)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    reader = FrameReader()
    heard = [frame for begin, end in itertools.pairwise(edges) for frame in reader.feed(data[begin:end])]
    assert heard == said


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!I", MAX_BYTES + 1),
        struct.pack("!I", 4) + b"junk",
        struct.pack("!I", len(text := pickle.dumps("no frame"))) + text,
    ],
)
def test_what_is_no_frame_is_said_to_be_none(data):
    with pytest.raises(FrameBroken):
        list(FrameReader().feed(data))


@pytest.mark.parametrize("kind", STATUS_OF, ids=lambda kind: kind.__name__)
def test_an_error_for_a_client_arrives_as_what_it_was(kind):
    [frame] = FrameReader().feed(Frame(Kind.ANSWER, Topic.CHANGE, kind("why, naïvely"), 7).encode())
    assert type(frame.body) is kind
    assert str(frame.body) == "why, naïvely"


def test_settings_arrive_as_they_were(tmp_path):
    briefing = Briefing(Settings(repository="here", load=(), tokens="file"), 2, 1, tmp_path, None)
    [frame] = FrameReader().feed(Frame(Kind.NOTICE, Topic.BRIEFING, briefing).encode())
    assert frame.body == briefing
