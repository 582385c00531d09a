"""Whether anybody can be recognised in what leaves a worker."""

import re
from collections.abc import Iterable

from worker.kafka import Record
from worker.sandbox.university.records import Message

ENVELOPE = "urn:uai:"
"""In every message, and in nothing that we say: a raw message shows by it."""
_WORD = re.compile(r"[\w.@:/>-]+")
_NUMBER = re.compile(r"(?<!\d)(?<!\d\.)\d{8}(?!\d|\.\d)")
"""Of a student, were it within a word; not the digits of a metric's value, some of which are a student's, too."""


def said_of(messages: Iterable[Message]) -> set[str]:
    """Give the words of messages that point to a person: numbers, logins, ids of enrolments and of the messages."""
    words = set()
    for message in messages:
        data = message.value["data"]
        student = data.get("student", {})
        found = (data.get("enrolment_id"), data.get("student_id"), data.get("previous_student_id"))
        words |= {*found, student.get("student_id"), student.get("login"), message.value["id"]} - {None}
    return words


def headers_of(letters: Iterable[Record]) -> list[str]:
    """Give the names and values of the headers that dead letters carry."""
    return [f"{name} {(value or b'').decode()}" for letter in letters for name, value in letter.headers]


def shown(texts: Iterable[str], people: Iterable[str]) -> set[str]:
    """Give whom, or whatever of a raw message, can be read in these texts; numbers also within a name of an account."""
    hidden = set(people)
    found = set()
    for text in texts:
        found |= hidden & {*_WORD.findall(text), *_NUMBER.findall(text)}
        if ENVELOPE in text:
            found.add(ENVELOPE)
    return found
