"""Choose the graphs for a run: what is folded in, what follows the tap, and how a module is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field

from torch import Tensor

from everseg.domains.adapters.aug import AugConfig, AugModule
from everseg.domains.adapters.kinds import AnyAdapter
from everseg.domains.adapters.linear import LinearLoRA
from everseg.domains.merging.learner import MergedLearner
from everseg.domains.methods.independent import Independent
from everseg.domains.methods.samcl import SAMCL
from everseg.domains.methods.zero_shot import ZeroShot
from everseg.errors import UserError
from everseg.runs.exports.graphs import Adapting, Bank, Base, Fixed, Guarded, Unadapted
from everseg.runs.exports.routing import Router, merged_router, samcl_router
from everseg.runs.run import Run
from everseg.types import MERGED, PLAIN
from everseg.types.abilities import Exports


@dataclass
class Plan:
    """What is written.

    base: the base, with what folds into it.
    tail: what adapts it; None where weights are inputs.
    router: who chooses.
    modules: adapters by name, for what is checked and for the files beside the graphs.
    config: the shape of modules whose weights are inputs.
    """

    base: Base
    tail: Adapting | None
    router: Router | None = None
    modules: Mapping[str, AnyAdapter] = field(default_factory=dict)
    config: AugConfig | None = None

    @property
    def layout(self) -> str:
        """one: a single module or the base. routed: the decoder chooses. parts: weights are inputs."""
        if self.tail is None:
            return "parts"
        return "one" if self.router is None else "routed"

    @property
    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Of each module, by the names of the tail's inputs."""
        return {
            name: {part: value.detach().cpu().contiguous() for part, value in module.named_parameters()}
            for name, module in self.modules.items()
        }


def plan(run: Run, domain: str | None, routed: bool) -> Plan:
    """What a run becomes.

    Raises:
        UserError: it cannot be that.
    """
    learner, base, method = run.learner, run.base, run.config.method
    if domain is not None and routed:
        raise UserError("--domain exports one module and --routed all with their router; give one of them")
    if isinstance(learner, SAMCL):
        return _samcl(run, learner, domain, routed)
    if isinstance(learner, Independent):
        if domain is None:
            raise UserError(
                f"method {method!r} has no router: it tries every module on every image; export one with "
                f"--domain, of {', '.join(learner.modules)}"
            )
        return _one(base, _module(run, learner.modules, domain))
    if domain not in (None, PLAIN):
        raise UserError(
            f"method {method!r} has one adapter for all domains; leave --domain out, or give {PLAIN!r}, the "
            "untouched base"
        )
    if domain == PLAIN or isinstance(learner, ZeroShot):
        if routed:
            raise UserError(f"method {method!r} has nothing to choose among; leave --routed out")
        return _one(base, None)
    if not isinstance(learner, Exports):
        raise UserError(
            f"method {method!r} has no `exports`, which returns the adapter to export; implement it, "
            "or choose another method"
        )
    adapter = learner.exports()
    assert isinstance(adapter, AnyAdapter)
    if not routed:
        return _one(base, adapter)
    router = merged_router(learner) if isinstance(learner, MergedLearner) else None
    if router is None:
        raise UserError(
            f"{run.folder} uses its adapter for every image, so there is no choice to export; leave "
            "--routed out"
        )
    return Plan(base, Guarded(adapter, router), router, {MERGED: adapter})


def _samcl(run: Run, learner: SAMCL, domain: str | None, routed: bool) -> Plan:
    base = run.base
    if domain is not None:
        return _one(base, _module(run, learner.modules, domain))
    if not learner.modules or not bool(learner.selector.seen.any()):
        raise UserError(f"{run.folder} has learned no domain; export the base with --domain {PLAIN}")
    router, modules = samcl_router(learner), learner.modules
    if not routed:
        return Plan(base, None, router, modules, learner.config.aug)
    weights = [dict(module.named_parameters()) for module in modules.values()]
    config = next(iter(modules.values())).config
    return Plan(base, Bank(weights, base.adapted, config, router), router, modules)


def _module(run: Run, modules: Mapping[str, AugModule], domain: str) -> AugModule | None:
    if domain in modules:
        return modules[domain]
    if domain == PLAIN:
        return None
    raise UserError(
        f"{run.folder} has no module {domain!r}; it has {', '.join([*modules, PLAIN])} (the untouched base)"
    )


def _one(base: Base, adapter: AnyAdapter | None) -> Plan:
    if adapter is None:
        return Plan(base, Unadapted())
    if isinstance(adapter, LinearLoRA):
        model = deepcopy(base.model)
        model.load_state_dict(adapter.folded(model.state_dict()))
        return Plan(type(base)(model, base.name, base.first), Unadapted(), modules={MERGED: adapter})
    reads = isinstance(adapter, AugModule) and adapter.config.prompt_map
    return Plan(base, Fixed(adapter, reads), modules={MERGED: adapter})
