"""Which model answers to which name. Pure."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from vllm_operator.api.names import Key
from vllm_operator.gateway.state import GatewayModel


@dataclass(frozen=True)
class Share:
    """A model's part of the requests for a name."""

    model: GatewayModel
    weight: int


@dataclass(frozen=True)
class Names:
    """The outcome."""

    owners: dict[str, tuple[Share, ...]]
    """Name → who answers to it; the oldest first."""
    taken: dict[Key, dict[str, Key]] = field(default_factory=dict)
    """Model → names that it wants and another one has."""


def own_name(key: Key) -> str:
    """The name by which a model can always be asked for."""
    return f"{key.namespace}/{key.name}"


def adapter_of(model: GatewayModel, name: str) -> GatewayModel:
    """A model's adapter, which callers see as a model of its own: what it shares with its model, and the names.

    `namespace/model/adapter` is always its own, as `namespace/name` is a model's.
    """
    key = Key(model.key.namespace, f"{model.key.name}/{name}")
    return replace(model, key=key, parent=model.key, served_model_names=(name,), fallback=None)


def _may_share(first: GatewayModel, other: GatewayModel) -> bool:
    """Whether requests for the first one's names may go to the other. Another namespace must not draw them to itself by a
    weight, and nobody may use a model by a share of it who may not use it by its name.
    """
    same_callers = other.callers is None or (first.callers is not None and first.callers <= other.callers)
    return other.weight is not None and other.key.namespace == first.key.namespace and same_callers


def decide_names(models: Iterable[GatewayModel]) -> Names:
    """Who answers to which name.

    `namespace/name` is always the model's own. A served name is the oldest model's, unless it and others of that name have a
    weight: these share it. Ages are told apart by namespace and name where they are the same.
    """
    by_age = sorted(models, key=lambda model: (model.created, model.key))
    wanted: dict[str, list[GatewayModel]] = defaultdict(list)
    own = {own_name(model.key): model for model in by_age}
    taken: dict[Key, dict[str, Key]] = defaultdict(dict)
    for model in by_age:
        for name in dict.fromkeys(model.served_model_names):
            if name in own and own[name] is not model:
                taken[model.key][name] = own[name].key
            elif name not in own:
                wanted[name].append(model)
    owners: dict[str, tuple[Share, ...]] = {name: (Share(model, 1),) for name, model in own.items()}
    for name, candidates in wanted.items():
        first = candidates[0]
        sharing = [each for each in candidates if _may_share(first, each)] if first.weight is not None else [first]
        # Nobody would answer if all had no share at all.
        total = sum(each.weight or 0 for each in sharing)
        owners[name] = tuple(Share(each, (each.weight or 0) if total else 1) for each in sharing)
        for each in candidates:
            if each not in sharing:
                taken[each.key][name] = first.key
    return Names(dict(sorted(owners.items())), dict(taken))
