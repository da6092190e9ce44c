"""Translation of PaddleDetection's keys for the stds of box deltas to the one parameter of this project.

PaddleDetection's configurations set the stds, by which the regression targets of a box head are divided, in two other
ways: ``bbox_weight`` of the box head contains their inverses, and ``prior_box_var`` of ``BBoxPostProcess.decode``
contains the inverses for the last stage. Both are translated to ``bbox_stds`` of the box head when a file or the
command line is read. A value that is read later overrides an earlier one, whichever key it has. Messages contain the
key that was written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ppdet.core.config.errors import ConfigError, located
from ppdet.core.config.faults import find_fault
from ppdet.core.config.node import Config, ConfigDict, Descriptor
from ppdet.core.config.ranges import BoxWeights
from ppdet.core.registry import ClassInfo, class_info, is_registered

__all__ = ["require_translated", "translate"]

STDS, WEIGHTS, LAST_WEIGHTS = "bbox_stds", "bbox_weight", "prior_box_var"
_TOLERANCE = 1e-6
"""Relative difference up to which two values count as equal."""


@dataclass(frozen=True)
class _Place:
    """Arguments of a class somewhere in the configuration: its section, or a mapping that also contains its name.

    Attributes:
        arguments: the mapping.
        path: dotted key of the mapping.
    """

    arguments: ConfigDict
    path: str

    def key(self, name: str) -> str:
        """Return the dotted key of an argument as the user wrote it."""
        return self.arguments.written(name) or f"{self.path}.{name}"

    def named(self, name: str) -> str:
        """Return the key of an argument and where it was written, for messages."""
        return f"'{self.key(name)}'{located(self.arguments.origin(name))}"


@dataclass(frozen=True)
class _Reference:
    """A part that the configuration chooses.

    Attributes:
        info: its class, or None if the configuration does not name a registered one.
        places: where its arguments are, the strongest first.
    """

    info: ClassInfo | None
    places: list[_Place]

    def place_of(self, name: str) -> _Place | None:
        """Return the place that sets an argument."""
        return next((place for place in self.places if name in place.arguments), None)


def translate(config: Config, layer: ConfigDict) -> None:
    """Replace PaddleDetection's keys by ``bbox_stds``.

    Args:
        config: the configuration, changed in place.
        layer: what has just been merged into it: the content of a file, or overrides.

    Raises:
        ConfigError: a value is invalid, or the layer sets different values under two keys.
    """
    for info, place in list(_calls(config)):
        if WEIGHTS in place.arguments and STDS in info.parameters and WEIGHTS not in info.parameters:
            _translate_weights(info, place, layer)
    head, decode = _box_head(config), _decode(config)
    if decode.place_of(LAST_WEIGHTS) is not None and head.info is not None and STDS in head.info.parameters:
        _translate_last_weights(config, head, decode, layer)


def require_translated(config: Config) -> None:
    """Check that ``prior_box_var`` could be translated.

    Raises:
        ConfigError: there is no box head that it could apply to.
    """
    place = _decode(config).place_of(LAST_WEIGHTS)
    if place is not None:
        model = config.get("architecture")
        reason = f"{model} has no box head with '{STDS}'" if model else "'architecture' is not set"
        raise ConfigError(f"{place.named(LAST_WEIGHTS)} applies to the box head, but {reason}: remove the key")


def _translate_weights(info: ClassInfo, place: _Place, layer: ConfigDict) -> None:
    weights, named, key = place.arguments[WEIGHTS], place.named(WEIGHTS), place.key(WEIGHTS)
    if weights is not None:
        origin = place.arguments.origin(WEIGHTS)
        _check(weights, info.annotations.get(STDS, Any), key, origin)
        stds = _inverse(weights)
        if _sets(layer, f"{place.path}.{STDS}") and not _equal(place.arguments[STDS], stds):
            raise ConfigError(f"{named} and {place.named(STDS)} set different stds: remove one of them")
        place.arguments.put(STDS, stds, origin, written=key)
    place.arguments.discard(WEIGHTS)


def _translate_last_weights(config: Config, head: _Reference, decode: _Reference, layer: ConfigDict) -> None:
    source = decode.place_of(LAST_WEIGHTS)
    assert source is not None and head.info is not None
    weights, origin, key = (
        source.arguments[LAST_WEIGHTS],
        source.arguments.origin(LAST_WEIGHTS),
        source.key(LAST_WEIGHTS),
    )
    if weights is not None:
        _check(weights, BoxWeights, key, origin)
        last = _inverse(weights)
        target = head.place_of(STDS) or _section(config, head.info.name)
        present = target.arguments.get(STDS, head.info.parameters[STDS].default)
        one_stage = not isinstance(head.info.parameters[STDS].default[0], Sequence)
        stages = 1 if one_stage else _stages(config, head)
        before = [present] if one_stage else list(present)
        set_here = any(_sets(layer, f"{target.path}.{name}") for name in (STDS, WEIGHTS))
        if set_here and len(before) >= stages and not _equal(before[stages - 1], last):
            raise ConfigError(
                f"{source.named(LAST_WEIGHTS)} and {target.named(STDS)} set different stds for the last stage: remove "
                "one of them"
            )
        if len(before) >= stages - 1 and not set_here:
            target.arguments.put(STDS, last if one_stage else [*before[: stages - 1], last], origin, written=key)
    for place in decode.places:
        place.arguments.discard(LAST_WEIGHTS)


def _box_head(config: Config) -> _Reference:
    return _part(config, _model(config), "bbox_head")


def _decode(config: Config) -> _Reference:
    """Return the ``decode`` of the post-processing, if it is PaddleDetection's ``RCNNBox``."""
    decode = _part(config, _part(config, _model(config), "bbox_post_process", "BBoxPostProcess"), "decode")
    own = decode.info is None or LAST_WEIGHTS in decode.info.parameters
    return _Reference(None, []) if own else decode


def _model(config: Config) -> _Reference:
    name = config.get("architecture")
    return _reference(config, name, name if isinstance(name, str) else "")


def _part(config: Config, owner: _Reference, name: str, default: str | None = None) -> _Reference:
    """Return the part that an argument of ``owner`` chooses."""
    place = owner.place_of(name)
    default = (owner.info.inject.get(name) if owner.info is not None else None) or default
    if place is None:
        return _reference(config, default, "")
    return _reference(config, place.arguments[name], f"{place.path}.{name}", default)


def _reference(config: Config, value: Any, path: str, default: str | None = None) -> _Reference:
    inline: list[_Place] = []
    name = value
    if isinstance(value, Descriptor):
        name, inline = value.class_name, [_Place(value.arguments, path)]
    elif isinstance(value, ConfigDict):
        name, inline = value.get("name", default), [_Place(value, path)]
    if not isinstance(name, str) or not is_registered(name):
        return _Reference(None, [])
    section = config.get(name)
    places = [*inline, _Place(section, name)] if isinstance(section, ConfigDict) else inline
    return _Reference(class_info(name), places)


def _section(config: Config, name: str) -> _Place:
    """Return the section of a class, which is added if the configuration has none."""
    if not isinstance(config.get(name), ConfigDict):
        config.put(name, ConfigDict(), config.origin(name))
    return _Place(config[name], name)


def _stages(config: Config, head: _Reference) -> int:
    assert head.info is not None
    place = head.place_of("num_cascade_stages")
    if place is not None:
        stages = place.arguments["num_cascade_stages"]
    else:
        stages = config.get("num_cascade_stages", head.info.parameters["num_cascade_stages"].default)
    return stages if isinstance(stages, int) else 1  # another type is refused by the validation that follows


def _calls(config: Config) -> Iterator[tuple[ClassInfo, _Place]]:
    """Yield the classes that the configuration gives arguments to, with these arguments."""
    for key, value in config.items():
        if is_registered(key):
            yield from _calls_within(class_info(key), value, key)


def _calls_within(info: ClassInfo, arguments: Any, path: str) -> Iterator[tuple[ClassInfo, _Place]]:
    if not isinstance(arguments, ConfigDict):
        return
    yield info, _Place(arguments, path)
    for key, value in arguments.items():
        name: Any
        if isinstance(value, Descriptor):
            name, value = value.class_name, value.arguments
        else:
            name = value.get("name", info.inject.get(key)) if isinstance(value, ConfigDict) else None
        if isinstance(name, str) and is_registered(name):
            yield from _calls_within(class_info(name), value, f"{path}.{key}")


def _sets(layer: ConfigDict, path: str) -> bool:
    """Return whether a layer sets a dotted key to something other than null."""
    node: Any = layer
    for key in path.split("."):
        node = node.arguments if isinstance(node, Descriptor) else node
        if not isinstance(node, ConfigDict) or key not in node:
            return False
        node = node[key]
    return node is not None


def _check(value: Any, annotation: Any, key: str, origin: str | None) -> None:
    fault = find_fault(value, annotation)
    if fault is not None:
        raise ConfigError(fault.template.format(f"'{key}'", what=fault.what) + located(origin))


def _inverse(weights: Any) -> Any:
    return [_inverse(item) for item in weights] if isinstance(weights, (list, tuple)) else 1.0 / weights


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(_equal, first, second))
    numbers = isinstance(first, (int, float)) and isinstance(second, (int, float))
    return numbers and math.isclose(first, second, rel_tol=_TOLERANCE)
