"""Numbers as people read them: bytes, rates, times, ages, a row of bars. Pure.

Owns the forms that the tables of the commands and of the demo have in common. A count with its noun
is `counted` of `proto`.
"""

from __future__ import annotations

from typing import Final

_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
_STEP: Final = 1_000.0


def human_bytes(count: float) -> str:
    """Return for example `0 B`, `999 B`, `1.2 kB`, `45 MB`, in powers of 1000."""
    value = float(count)
    for unit in _UNITS[:-1]:
        if value < _STEP - 0.5:
            return _number(value, whole=unit == "B") + f" {unit}"
        value /= _STEP
    return _number(value, whole=False) + f" {_UNITS[-1]}"


def _number(value: float, *, whole: bool) -> str:
    return f"{value:.0f}" if whole or value >= 9.95 else f"{value:.1f}"


def human_rate(bytes_per_second: float) -> str:
    """Return for example `1.2 MB/s`."""
    return f"{human_bytes(bytes_per_second)}/s"


def human_seconds(seconds: float) -> str:
    """Return for example `0.4 s`, `12 s`, `2 min 5 s`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


_SPARKS: Final = "▁▂▃▄▅▆▇█"


def sparkline(values: tuple[float, ...], width: int) -> str:
    """Return the last `width` values as a row of bars, the highest value a full bar."""
    shown = values[-width:] if width > 0 else ()
    top = max(shown, default=0.0)
    if top <= 0:
        return _SPARKS[0] * len(shown)
    return "".join(_SPARKS[round(max(0.0, v) / top * (len(_SPARKS) - 1))] for v in shown)


_AGES: Final = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))
_TWO_UNITS_BELOW: Final = 10


def age(seconds: float) -> str:
    """Return for example `0s`, `59s`, `4m10s`, `3h5m`, `12d`: at most two units, six characters."""
    left = max(0, int(seconds))
    for number, (length, unit) in enumerate(_AGES):
        count, rest = divmod(left, length)
        if not count:
            continue
        if count < _TWO_UNITS_BELOW and number + 1 < len(_AGES):
            next_length, next_unit = _AGES[number + 1]
            if more := rest // next_length:
                return f"{count}{unit}{more}{next_unit}"
        return f"{count}{unit}"
    return "0s"
