"""What is read of Debezium's envelopes and APOGÉE's rows. An envelope comes bare, or as payload beside its schema."""

import re
from base64 import b64decode
from collections.abc import Mapping
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import AliasChoices, AliasGenerator, AliasPath, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from schemas.envelope import Code32, Label255

_DIGITS = re.compile(r"[0-9]{1,19}(\.0*)?")
_MOST_BYTES, _MOST_DIGITS = 16, 38  # those of Oracle's NUMBER
_EXACT = 2.0**53


def _number(value: object) -> object:
    """Read a whole NUMBER: JSON's, its text, Connect's Decimal (base64), or Debezium's VariableScaleDecimal.

    Text of digits only is never the base64 of a number that isn't negative.
    """
    if isinstance(value, str):
        digits = value.strip()
        return int(digits.partition(".")[0]) if _DIGITS.fullmatch(digits) else _unscaled(value)
    if isinstance(value, Mapping):
        return _scaled(value.get("value"), value.get("scale"))
    if type(value) is int or (isinstance(value, float) and value.is_integer() and abs(value) < _EXACT):
        return int(value)
    raise _not_a_number()


def _scaled(unscaled: object, scale: object) -> int:
    if type(scale) is not int or abs(scale) > _MOST_DIGITS or not isinstance(unscaled, str):
        raise _not_a_number()
    number: int
    number, rest = divmod(_unscaled(unscaled) * 10 ** max(0, -scale), 10 ** max(0, scale))
    if rest:
        raise _not_a_number()
    return number


def _unscaled(text: str) -> int:
    try:
        content = b64decode(text, validate=True)
    except ValueError:
        raise _not_a_number() from None
    if not 0 < len(content) <= _MOST_BYTES:
        raise _not_a_number()
    return int.from_bytes(content, "big", signed=True)


def _not_a_number() -> PydanticCustomError:
    return PydanticCustomError("not_a_number", "not a whole number in an encoding of Kafka Connect")


def _tidy(value: object) -> object:
    """Remove the padding of CHAR, and line ends within a label; an empty rest is no value."""
    return (" ".join(value.split()) or None) if isinstance(value, str) else value


Number = Annotated[int, BeforeValidator(_number), Field(ge=0, le=2**63 - 1)]
Year = Annotated[Number, Field(ge=1900, le=2200)]
Code = Annotated[Code32, BeforeValidator(_tidy)]
MaybeCode = Annotated[Code32 | None, BeforeValidator(_tidy)]
MaybeLabel = Annotated[Label255 | None, BeforeValidator(_tidy)]
_Place = Annotated[str | None, Field(max_length=100, pattern="^[ -~]*$")]


class Read(BaseModel):
    """A part of a message; fields that it doesn't name are neither read nor kept."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class ChangeEnvelope(Read):
    """A change of a row, or a part of one."""

    model_config = ConfigDict(
        alias_generator=AliasGenerator(validation_alias=lambda name: AliasChoices(name, AliasPath("payload", name)))
    )


class Row(Read):
    """A row; columns have Oracle's names, or the same in lower case."""

    model_config = ConfigDict(
        alias_generator=AliasGenerator(validation_alias=lambda name: AliasChoices(name.upper(), name))
    )


class ChangeSource(Read):
    """Where a change was made, and when."""

    table: str
    scn: Number
    ts_ms: Annotated[int, Field(ge=0, le=253_402_300_799_999)]
    rs_id: _Place = None
    ssn: Annotated[int | None, Field(ge=0, lt=10**10)] = None
    lcr_position: _Place = None

    @property
    def changed_at(self) -> float:
        """The instant of the change."""
        return self.ts_ms / 1000

    @property
    def place(self) -> str:
        """The place in the redo log, in hexadecimal of fixed width, so that its text orders; empty in a snapshot."""
        record = self.rs_id or self.lcr_position
        return f"{record.strip()}/{self.ssn or 0:010}" if record else ""


class Event(ChangeEnvelope):
    """A change, whatever the table."""

    op: Literal["r", "c", "u", "d", "t"]
    source: ChangeSource


class EnrolmentKey(Row):
    """The key of a row of INS_ADM_ETP."""

    cod_anu: Year
    cod_ind: Number
    cod_etp: Code
    cod_vrs_vet: Number
    num_occ_iae: Number


class EnrolmentTableRow(EnrolmentKey):
    """A row of INS_ADM_ETP."""

    eta_iae: Annotated[Literal["E", "C", "A", "R"], BeforeValidator(_tidy)]
    eta_pmt_iae: Annotated[str | None, BeforeValidator(_tidy)]
    cod_cmp: MaybeCode


class Enrolments(ChangeEnvelope):
    """A change of INS_ADM_ETP."""

    before: EnrolmentKey | None = None
    after: EnrolmentTableRow | None = None


R = TypeVar("R", bound=Row)


class After(ChangeEnvelope, Generic[R]):
    """A change of a row of another table: the row as it is now."""

    after: R


class IndividuKey(Row):
    """The key of a row of INDIVIDU."""

    cod_ind: Number


class Individu(IndividuKey):
    """A row of INDIVIDU, of which no other column must ever be read."""

    cod_etu: Number | None


class Persons(ChangeEnvelope):
    """A change of INDIVIDU."""

    before: IndividuKey | None = None
    after: Individu | None = None


class EtapeTableRow(Row):
    """A row of ETAPE."""

    cod_etp: Code
    lib_etp: MaybeLabel


class VersionEtape(Row):
    """A row of VERSION_ETAPE."""

    cod_etp: Code
    cod_vrs_vet: Number
    lib_web_vet: MaybeLabel


class Composante(Row):
    """A row of COMPOSANTE."""

    cod_cmp: Code
    lib_cmp: MaybeLabel


COLUMNS = frozenset(
    name for row in (EnrolmentTableRow, Individu, EtapeTableRow, VersionEtape, Composante) for name in row.model_fields
)
"""Every column that is read, in lower case."""
