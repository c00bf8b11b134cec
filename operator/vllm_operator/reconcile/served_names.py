"""Which models want which names of the gateway: so that a model can say that an older one has a name of its own.

Kept from the operator's passes; what the gateway really does is decided by itself, in the same way.
"""

from collections import defaultdict
from collections.abc import Iterable

from vllm_operator.api.names import Key
from vllm_operator.gateway.naming import decide_names, own_name
from vllm_operator.gateway.state import GatewayModel


class ServedNames:
    """The names that models want, as far as they have been looked at."""

    def __init__(self) -> None:
        self._models: dict[Key, GatewayModel] = {}
        self._wanted: dict[str, set[Key]] = defaultdict(set)

    def note(self, key: Key, *, created: str, names: Iterable[str], weight: int | None) -> set[Key]:
        """Take down what a model wants; the other models that this may change something for."""
        model = GatewayModel(key=key, created=created, served_model_names=tuple(names), weight=weight)
        if self._models.get(key) == model:
            return set()
        affected = self.forget(key)
        self._models[key] = model
        for name in _names(model):
            self._wanted[name].add(key)
        return (affected | self._rivals(model)) - {key}

    def forget(self, key: Key) -> set[Key]:
        """The model is gone; the others that this may change something for."""
        model = self._models.pop(key, None)
        if model is None:
            return set()
        affected = self._rivals(model) - {key}
        for name in _names(model):
            self._wanted[name].discard(key)
            if not self._wanted[name]:
                del self._wanted[name]
        return affected

    def taken(self, key: Key) -> dict[str, Key]:
        """Names that the model wants → the model that has them."""
        model = self._models.get(key)
        if model is None:
            return {}
        rivals = self._rivals(model) | {key}
        return decide_names(self._models[each] for each in rivals).taken.get(key, {})

    def _rivals(self, model: GatewayModel) -> set[Key]:
        return {key for name in _names(model) for key in self._wanted.get(name, ())}


def _names(model: GatewayModel) -> set[str]:
    # Its own long name, too, which another may have given itself.
    return {*model.served_model_names, own_name(model.key)}
