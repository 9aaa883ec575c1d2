"""The daemon's messages without pydantic: read by the table ``ocd/ctl/fields.py``, which is made from their classes."""

from ocd.ctl.fields import FIELDS, STATES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PLAIN: "dict[str, tuple[type[Any], ...]]" = {"s": (str,), "i": (int,), "f": (int, float), "b": (bool,)}


class Record:
    """A message's fields as attributes, in its class's order; one that the daemon left out has its default."""

    def __init__(self, fields: "dict[str, Any]") -> None:
        self.__dict__.update(fields)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __str__(self) -> str:
        return str(plain(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]


def read(name: str, data: "Any") -> "Any":
    """The message ``name`` from what JSON said: a Record. What a newer daemon says beside it is left out.

    Raises ValueError when it is no such message.
    """
    if not isinstance(data, dict):
        raise ValueError(name)
    made = {}
    for field, kind, *default in FIELDS[name]:
        if field in data:
            made[field] = _value(kind, data[field])
        elif default:
            # a list or a table of its own for each
            made[field] = type(default[0])(default[0]) if isinstance(default[0], list | dict) else default[0]
        else:
            raise ValueError(f"{name}.{field}")
    return Record(made)


def plain(value: "Any") -> "Any":
    """A Record, and what is in it, as JSON has it."""
    if isinstance(value, Record):
        return {name: plain(one) for name, one in vars(value).items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return value


def _value(kind: str, value: "Any") -> "Any":
    if kind == "any":
        return value
    if kind[0] == "?":
        return None if value is None else _value(kind[1:], value)
    outer, _, inner = kind.partition(" ")
    if outer == "list" and isinstance(value, list):
        return [_value(inner, one) for one in value]
    if outer == "dict" and isinstance(value, dict):
        return {name: _value(inner, one) for name, one in value.items()}
    if kind == "state":
        # a state of another version's daemon is something to wait for
        return value if value in STATES else "starting"
    if kind in _PLAIN:
        if not isinstance(value, _PLAIN[kind]) or (isinstance(value, bool) and kind != "b"):
            raise ValueError(kind)
        number: Any = value
        return float(number) if kind == "f" else value
    if kind in FIELDS:
        return read(kind, value)
    raise ValueError(kind)
