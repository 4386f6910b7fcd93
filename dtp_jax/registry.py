"""Tables of rules, networks and trackers, to which users add their own."""

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dtp_jax.fields import FLAG, Field, error


class Registry(dict):
    """Name -> factory. What a user has registered comes with its config fields and its origin."""

    def __init__(self, kind: str, factories: tuple[Callable[..., Any], ...]):
        """`kind` is the config field that names an entry: "rule", "network", "trackers"."""
        super().__init__({factory.__name__: factory for factory in factories})
        self.kind, self._built_in = kind, tuple(self)
        self.fields: dict[str, dict[str, Field]] = {}
        """By name: the config fields that the entry brings, with their defaults."""
        self.origins: dict[str, str] = {}
        """By name: the module or the file that registered the entry; nothing for what is built in."""

    def register(
        self,
        factory: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> Callable[..., Any]:
        """Adds a factory; `config.rule` (or `config.network`) may then name it.

        Its keyword arguments are read from the config by name. To be called as a function or, with
        `fields` or nothing, as a decorator:

            @rules.register(fields={"gain": 0.5})
            def my_rule(*, noise, beta, gain): ...

        Args:
          name: what the config says; the name of the factory where not given.
          fields: the arguments that no config has yet: a default, whose type is that of the field, or a
            `dtp_jax.fields.Field` with a default, which says which values are allowed.

        Returns:
          The factory.

        Raises:
          ValueError: one line; it is no function or has no name, the name is that of another entry, or a field
            has no default.
        """
        if factory is None:
            return lambda factory: self.register(factory, name=name, fields=fields)
        if not callable(factory):
            raise error(f"{self.kind} to register", factory, "a function")
        name, origin = name or getattr(factory, "__name__", None), origin_of(factory)
        if not name:
            allowed = "register(FUNCTION, name=NAME), for this one has no name of its own"
            raise error(f"{self.kind} to register", factory, allowed)
        if name in self.origins and code_of(self[name]) == code_of(factory) is not None:
            origin = self.origins[name]  # one file, as a module and by its name
        if name in self._built_in or self.origins.get(name, origin) != origin:
            owner = "built in" if name in self._built_in else f"registered by {self.origins[name]}"
            raise ValueError(f"{self.kind} is {name!r}, which is {owner}; allowed: another name")
        brought = {field: _described(field, given) for field, given in (fields or {}).items()}
        self[name], self.fields[name], self.origins[name] = factory, brought, origin
        return factory

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        self.fields.pop(name, None)
        self.origins.pop(name, None)


def origin_of(factory: Callable[..., Any]) -> str:
    """What --plugin is given to register it again: a module that can be imported, or a file."""
    module = sys.modules.get(_written(factory).__module__)
    if module is not None and module.__name__ != "__main__" and module.__spec__ is not None:
        return module.__name__
    return code_of(factory) or "an interactive session"


def code_of(factory: Callable[..., Any]) -> str | None:
    """The file that it is written in; None where there is none."""
    made = _written(factory)
    if isinstance(made, type):  # a class is where its methods are
        made = next((f for f in vars(made).values() if hasattr(f, "__code__")), origin_of)
    code = getattr(made, "__code__", origin_of.__code__).co_filename
    return str(Path(code).resolve()) if Path(code).is_file() else None


def _written(factory: Callable[..., Any]) -> Any:
    """What somebody has written: the function inside of partials and wrappers, or the class of an object."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    made = inspect.unwrap(factory)
    return made if hasattr(made, "__code__") or isinstance(made, type) else type(made)


def _described(name: str, given: Any) -> Field:
    """The field for a default, or the field itself."""
    if isinstance(given, Field):
        if given.default is None:
            raise ValueError(f"fields[{name!r}] has no default; allowed: Field(..., default=VALUE)")
        return given
    if isinstance(given, bool):
        return FLAG._replace(default=given)
    for kind, allowed in ((int, "a whole number"), (float, "a number"), (str, "text")):
        if isinstance(given, kind):
            return Field(kind, allowed, default=given)
    raise ValueError(
        f"fields[{name!r}] is {given!r}; allowed: True, False, a number, text, or a Field"
    )
