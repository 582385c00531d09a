"""A web server that responds with any bytes, and the client that reads them."""

import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache

import stamina

from worker.domain.errors import MoodleError
from worker.domain.rules import AccountField, Mode
from worker.moodle import CallLimits, MoodleReader, MoodleWriter, RemoteCohort, Transport

TOKEN = "0123456789abcdef0123456789abcdef"
COHORT = RemoteCohort(id=1, name="Licence 1", idnumber="L1DROI", description="", description_format=1)
CALLS: dict[bytes, Callable[[MoodleWriter], object]] = {
    b"site": MoodleReader.site_info,
    b"all": MoodleReader.cohorts,
    b"cohorts": lambda moodle: moodle.cohorts([1, 2]),
    b"system": MoodleReader.system_cohort_ids,
    b"members": lambda moodle: moodle.members([1, 2]),
    b"users": lambda moodle: moodle.users(AccountField.USERNAME, ["e1", "e2"]),
    b"accounts": lambda moodle: moodle.account_keys(AccountField.IDNUMBER, [4, 5]),
    b"sight": MoodleReader.sees_people,
    b"create": lambda moodle: moodle.create([("L1DROI", "Licence 1"), ("L2DROI", "Licence 2")]),
    b"update": lambda moodle: moodle.update(COHORT, name="Licence 1", idnumber="L1DROI"),
    b"add": lambda moodle: moodle.add([(1, 4), (1, 5)]),
    b"remove": lambda moodle: moodle.remove([(1, 4), (2, 5)]),
}


class AnyAnswer:
    """A server that responds to every request with the same pieces of bytes, then closes the connection.

    `asked` holds the head and the body of the last request.
    """

    def __init__(self) -> None:
        self.answer: Iterable[bytes] = ()
        self.asked = (b"", b"")
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection, connection.makefile("rb") as stream:
                head, length = b"", 0
                while (line := stream.readline()).strip():
                    head += line
                    name, _, value = line.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                self.asked = head, stream.read(length)
                with suppress(OSError):  # the client has read enough
                    for piece in self.answer:
                        connection.sendall(piece)


@cache
def _connected() -> tuple[AnyAnswer, MoodleWriter]:
    server = AnyAnswer()
    limits = CallLimits(calls_per_second=1e6, timeout_seconds=5.0)
    return server, MoodleWriter(
        Transport("ecampus", server.url, TOKEN, limits), Mode.AUTOMATIC, instance="4f2a9c71d0be"
    )


def moodle(case: bytes) -> None:
    """Use the rest of a case as the response to the call that its first line names: it is read, or raises MoodleError.

    The error's text contains neither the token nor anything that could control a terminal.
    """
    name, _, response = case.partition(b"\n")
    call = CALLS.get(name, MoodleReader.cohorts)
    server, client = _connected()
    server.answer = [response]
    with stamina.set_testing(testing=True, attempts=2):
        try:
            call(client)
        except MoodleError as error:
            text = f"{error} {error.code}"
            assert TOKEN not in text
            assert text.isprintable()
