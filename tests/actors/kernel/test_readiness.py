"""Sockets of actors."""

from __future__ import annotations

import socket

import pytest

from tests.support.actors import Log, Probe, settle


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    left.setblocking(False)
    with left, right:
        yield left, right


class Reader(Probe):
    """Logs what it reads."""

    def __init__(self, log, sock):
        super().__init__(log)
        self.sock = sock

    def on_start(self):
        self.add_reader(self.sock, self.read)

    def read(self):
        self.log.add(self.sock.recv(100))


def test_a_reader_is_called_when_there_is_something_to_read(dispatcher, pair):
    log = Log()
    ref = Reader.start(log, pair[0], dispatcher=dispatcher)
    for text in (b"one", b"two"):
        pair[1].send(text)
        log.wait_for(lambda items, text=text: text in items)
    assert ref.ask(lambda actor: actor.remove_reader(actor.sock)) is True
    assert ref.ask(lambda actor: actor.remove_reader(actor.sock)) is False
    pair[1].send(b"unheard")
    settle(dispatcher)
    assert log.items == [b"one", b"two"]


class ByteReader(Reader):
    """Reads a byte in each turn, up to the end."""

    def read(self):
        try:
            data = self.sock.recv(1)
        except OSError as error:
            data = type(error)
        self.log.add(data)
        if data == b"":
            self.remove_reader(self.sock)


def test_a_reset_is_told_behind_all_bytes_however_few_a_turn_reads(dispatcher, pair):
    log = Log()
    ours, theirs = pair
    theirs.send(b"0123456789")
    ours.send(b"never read, so that the end of the other side is a reset")
    ByteReader.start(log, ours, dispatcher=dispatcher)
    theirs.close()
    items = log.wait_for(lambda items: b"" in items)
    assert items == [*(b"%d" % number for number in range(10)), ConnectionResetError, b""]


def test_a_writer_is_called_until_it_is_removed(dispatcher, pair):
    log = Log()

    def write(actor):
        actor.log.add("writable")
        if len(actor.log.items) == 3:
            actor.remove_writer(pair[0])

    ref = Probe.start(log, dispatcher=dispatcher)
    ref.tell(lambda actor: actor.add_writer(pair[0], lambda: write(actor)))
    log.wait(3)
    settle(dispatcher)
    assert log.items == ["writable"] * 3


def test_reader_and_writer_of_one_socket_are_independent(dispatcher, pair):
    log = Log()
    ref = Reader.start(log, pair[0], dispatcher=dispatcher)
    ref.ask(lambda actor: actor.add_writer(pair[0], lambda: actor.remove_writer(pair[0])))
    settle(dispatcher)
    pair[1].send(b"still read")
    assert log.wait() == [b"still read"]


def test_a_second_call_replaces_the_method(dispatcher, pair):
    log = Log()
    ref = Reader.start(log, pair[0], dispatcher=dispatcher)
    ref.ask(lambda a: a.add_reader(a.sock, lambda: log.add((a.sock.recv(10), "second"))))
    pair[1].send(b"x")
    assert log.wait() == [(b"x", "second")]
    assert len(dispatcher.readiness) == 1


def test_the_end_of_the_actor_removes_its_sockets_and_leaves_them_open(dispatcher, pair):
    ref = Reader.start(Log(), pair[0], dispatcher=dispatcher)
    ref.ask(lambda actor: actor.add_writer(pair[1], lambda: None))
    ref.stop()
    assert len(dispatcher.readiness) == 0
    pair[1].send(b"x")
    assert pair[0].recv(1) == b"x"


def test_a_socket_closed_before_it_is_removed_can_still_be_removed(dispatcher):
    left, right = socket.socketpair()
    ref = Reader.start(Log(), left, dispatcher=dispatcher)

    def close_and_remove(actor):
        left.close()
        return actor.remove_reader(left)

    assert ref.ask(close_and_remove) is True
    assert len(dispatcher.readiness) == 0
    right.close()


def test_a_number_reused_after_a_close_belongs_to_its_new_owner(dispatcher):
    log = Log()
    left, right = socket.socketpair()
    careless = Reader.start(Log(), left, dispatcher=dispatcher)
    fd = careless.ask(lambda actor: (actor.sock.fileno(), actor.sock.close())[0])
    fresh, peer = socket.socketpair()
    assert fresh.fileno() == fd, "the lowest free number is taken first"
    with fresh, peer, right:
        owner = Reader.start(log, fresh, dispatcher=dispatcher)
        owner.ask("started")
        assert careless.ask(lambda actor: actor.remove_reader(actor.sock)) is False
        careless.stop()
        peer.send(b"mine")
        assert log.wait(2) == ["started", b"mine"]
        owner.stop()


def test_a_socket_of_another_actor_and_a_closed_one_are_refused(dispatcher, pair):
    Reader.start(Log(), pair[0], dispatcher=dispatcher).ask("started")
    for sock, text in ((pair[0], "another actor"), (socket.socket(), "closed")):
        if text == "closed":
            sock.close()
        ref = Probe.start(dispatcher=dispatcher)
        with pytest.raises(ValueError, match=text):
            ref.ask(lambda actor, sock=sock: actor.add_reader(sock, lambda: None))


def test_exit_in_a_callback_ends_the_actor(dispatcher, pair):
    ref = Probe.start(dispatcher=dispatcher)
    ref.ask(lambda actor: actor.add_reader(pair[0], actor.exit))
    pair[1].send(b"x")
    assert ref.actor_stopped.wait(5)
    assert len(dispatcher.readiness) == 0


@pytest.mark.parametrize("both", [False, True])
def test_a_socket_closed_in_the_turn_that_added_it_harms_nobody(dispatcher, pair, both):
    log = Log()
    neighbour = Reader.start(log, pair[0], dispatcher=dispatcher)
    left, right = socket.socketpair()

    def add_and_close(actor):
        actor.add_reader(left, lambda: None)
        if both:
            actor.add_writer(left, lambda: None)
        left.close()

    Probe.start(dispatcher=dispatcher).ask(add_and_close)
    pair[1].send(b"alive")
    assert log.wait() == [b"alive"]
    assert len(dispatcher.readiness) == 1
    assert neighbour.is_alive()
    right.close()


def test_a_closed_socket_is_removed_in_both_directions_at_once(dispatcher, pair):
    left, right = socket.socketpair()
    ref = Probe.start(dispatcher=dispatcher)

    def add_both(actor):
        actor.add_reader(left, lambda: None)
        actor.add_writer(left, lambda: actor.remove_writer(left))

    def close_and_remove_one(actor):
        actor.add_writer(left, lambda: None)
        left.close()
        actor.remove_reader(left)
        return len(dispatcher.readiness)

    ref.ask(add_both)
    settle(dispatcher)
    assert ref.ask(close_and_remove_one) == 0
    right.close()


def test_a_writer_on_a_reused_number_displaces_a_stale_reader(dispatcher):
    log = Log()
    left, right = socket.socketpair()
    careless = Reader.start(Log(), left, dispatcher=dispatcher)
    settle(dispatcher)
    fd = careless.ask(lambda actor: (actor.sock.fileno(), actor.sock.close())[0])
    fresh, peer = socket.socketpair()
    assert fresh.fileno() == fd, "the lowest free number is taken first"
    ref = Probe.start(log, dispatcher=dispatcher)
    ref.ask(lambda a: a.add_writer(fresh, lambda: [log.add("w"), a.remove_writer(fresh)]))
    assert log.wait() == ["w"]
    for sock in (fresh, peer, right):
        sock.close()
