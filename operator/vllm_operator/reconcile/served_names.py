"""Which models want which names of the gateway: so that a model can say that an older one has a name of its own.

Kept from the operator's passes; what the gateway really does is decided by itself, in the same way.
"""

from collections import defaultdict
from collections.abc import Iterable

from vllm_operator.api.names import Key
from vllm_operator.gateway.naming import adapter_of, decide_names, own_name
from vllm_operator.gateway.state import GatewayModel


class ServedNames:
    """The names that models want, as far as they have been looked at."""

    def __init__(self) -> None:
        self._models: dict[Key, tuple[GatewayModel, ...]] = {}
        """The model, and its adapters."""
        self._wanted: dict[str, set[Key]] = defaultdict(set)

    def note(
        self, key: Key, *, created: str, names: Iterable[str], weight: int | None, adapters: Iterable[str] = ()
    ) -> set[Key]:
        """Take down what a model and its adapters want; the other models that this may change something for."""
        model = GatewayModel(key=key, created=created, served_model_names=tuple(names), weight=weight)
        models = (model, *(adapter_of(model, name) for name in adapters))
        if self._models.get(key) == models:
            return set()
        affected = self.forget(key)
        self._models[key] = models
        for name in _names(models):
            self._wanted[name].add(key)
        return (affected | self._rivals(models)) - {key}

    def forget(self, key: Key) -> set[Key]:
        """The model is gone; the others that this may change something for."""
        models = self._models.pop(key, None)
        if models is None:
            return set()
        affected = self._rivals(models) - {key}
        for name in _names(models):
            self._wanted[name].discard(key)
            if not self._wanted[name]:
                del self._wanted[name]
        return affected

    def taken(self, key: Key) -> dict[str, Key]:
        """Names that the model and its adapters want → the model, or adapter, that has them."""
        models = self._models.get(key)
        if models is None:
            return {}
        rivals = self._rivals(models) | {key}
        taken = decide_names(each for rival in rivals for each in self._models[rival]).taken
        return {name: owner for each in models for name, owner in taken.get(each.key, {}).items()}

    def _rivals(self, models: Iterable[GatewayModel]) -> set[Key]:
        return {key for name in _names(models) for key in self._wanted.get(name, ())}


def _names(models: Iterable[GatewayModel]) -> set[str]:
    # Their own long names, too, which another may have given itself.
    return {name for model in models for name in (*model.served_model_names, own_name(model.key))}
