"""Checks of the structure of users' JSON files."""

from __future__ import annotations

from typing import Any

NUMBER = (int, float)
_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The differences of two objects, such as the settings of two runs, for a message; empty if there are none."""
    return "; ".join(
        f"{key} was {old.get(key)}, is {new.get(key)}" for key in sorted(old | new) if old.get(key) != new.get(key)
    )


def require_form(value: Any, form: Any, where: str) -> None:
    """Check the form of a result of `json.loads`.

    Args:
        value: the content.
        form: a type or a tuple of types, where bool is not an int; {key: form} for an object with at least these keys;
            [form] for a list of any length; {str: form} for an object with any keys.
        where (str): the file, for the message.

    Raises:
        ValueError: the content has another form; the message names the file and the key.
    """
    if isinstance(form, dict):
        require_form(value, (dict,), where)
        for key in value if str in form else form:
            if key not in value:
                raise ValueError(f"{where} lacks {key!r}")
            require_form(value[key], form.get(str, form.get(key)), f"{where}: {key!r}")
    elif isinstance(form, list):
        require_form(value, (list,), where)
        for number, item in enumerate(value):
            require_form(item, form[0], f"{where}, entry {number}")
    else:
        types = form if isinstance(form, tuple) else (form,)
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            expected = " or ".join(_NAMES[kind] for kind in types)
            raise ValueError(f"{where} is {_NAMES.get(type(value), type(value).__name__)}, expected {expected}")
