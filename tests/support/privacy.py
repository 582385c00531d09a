"""Checks whether anybody can be recognised in what leaves a worker."""

import re
from collections.abc import Iterable

from worker.kafka import Record
from worker.sandbox.university.records import Message

ENVELOPE = "urn:uai:"
"""In every message, and in no text of ours: it reveals a raw message."""
_WORD = re.compile(r"[\w.@:/>-]+")
_NUMBER = re.compile(r"(?<!\d)(?<!\d\.)\d{8}(?!\d|\.\d)")
"""A student number, even within a word; but not digits of a metric's value, which may look like one."""


def personal_words(messages: Iterable[Message]) -> set[str]:
    """Return the words of messages that point to a person: numbers, logins, ids of enrolments and of the messages."""
    words = set()
    for message in messages:
        data = message.value["data"]
        student = data.get("student", {})
        ids = (data.get("enrolment_id"), data.get("student_id"), data.get("previous_student_id"))
        words |= {*ids, student.get("student_id"), student.get("login"), message.value["id"]} - {None}
    return words


def headers_of(letters: Iterable[Record]) -> list[str]:
    """Return the names and values of the headers of dead letters."""
    return [f"{name} {(value or b'').decode()}" for letter in letters for name, value in letter.headers]


def shown(texts: Iterable[str], people: Iterable[str]) -> set[str]:
    """Return the personal words, and the trace of a raw message, in these texts; numbers also within a username."""
    hidden = set(people)
    visible = set()
    for text in texts:
        visible |= hidden & {*_WORD.findall(text), *_NUMBER.findall(text)}
        if ENVELOPE in text:
            visible.add(ENVELOPE)
    return visible
