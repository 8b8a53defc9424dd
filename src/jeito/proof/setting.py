"""What a check may look at beside the reply and its case. Knows nothing of any check."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from jeito.engines.base import Model
from jeito.proof.values import Case
from jeito.trace.log import Log


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a verdict is given. `language`: the behaviour's own. `open_model`: none where no model may be asked."""

    language: str | None = None
    cases: Sequence[Case] = ()
    open_model: Callable[[str], Model] | None = None
    model: str = ""
    """The reference of the model that is being proved."""
    log: Log | None = None
    opened: dict[str, Model] = field(default_factory=dict)
    """Models by their references: each is opened once."""
    judged: dict[str, object] = field(default_factory=dict)
    """What judges have shown of themselves in this proof: each is measured once."""

    def ask(self, reference: str) -> Model:
        """The model of a reference; without one, the model that is being proved."""
        assert self.open_model is not None
        name = reference or self.model
        if name not in self.opened:
            self.opened[name] = self.open_model(name)
        return self.opened[name]
