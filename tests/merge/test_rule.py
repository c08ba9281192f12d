"""Rules as objects: the table, the meaning of options, and that they do what their functions do."""

from __future__ import annotations

import ast
import inspect
import itertools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import everseg.merge
from everseg.errors import UserError
from everseg.merge import RULES, find
from everseg.merge.arithmetic import task_arithmetic
from everseg.merge.blockwise import blockwise
from everseg.merge.concrete import adamerging, concrete
from everseg.merge.dare import dare
from everseg.merge.dop import dop
from everseg.merge.ema import ema
from everseg.merge.fisher import fisher_merge
from everseg.merge.knots import knots
from everseg.merge.layerwise import layerwise
from everseg.merge.lorm import lorm
from everseg.merge.magmax import magmax
from everseg.merge.opcm import opcm
from everseg.merge.pcb import pcb
from everseg.merge.regmean_pp import regmean_pp
from everseg.merge.rule import Domain, Joint, Stepped, Summed
from everseg.merge.tensors import norm
from everseg.merge.ties import ties


def models(count: int = 4) -> list[dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(0)
    shapes = {"w": (6, 9), "b": (6,)}
    return [
        {n: torch.randn(*shape, generator=g, dtype=torch.float64) for n, shape in shapes.items()}
        for _ in range(count)
    ]


@pytest.mark.parametrize("name", RULES)
def test_the_table_names_rules_with_options_that_are_explained(name: str) -> None:
    kind = find(name)
    assert issubclass(kind, (Summed, Stepped, Joint)) and is_dataclass(kind) and kind.__doc__
    rule = kind()
    assert rule.works_on and rule.forgets in ("subtract", "refold", "drop")
    assert "samples" not in rule.needs or isinstance(rule, Joint), "who calibrates wants all at once"
    assert explained(kind) == {f.name for f in fields(kind)}


def explained(kind: type) -> set[str]:
    """The fields of a dataclass and its bases that a literal string of one line follows."""
    found = set()
    for base in [b for b in kind.__mro__ if is_dataclass(b)]:
        (body,) = [n for n in ast.parse(inspect.getsource(base)).body if isinstance(n, ast.ClassDef)]
        for field, below in itertools.pairwise(body.body):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                assert isinstance(field.target, ast.Name) and isinstance(below.value, ast.Constant)
                if "\n" not in str(below.value.value):
                    found.add(field.target.id)
    return found & {f.name for f in fields(kind)}


def test_a_rule_that_does_not_exist() -> None:
    with pytest.raises(UserError, match="did you mean 'ties'"):
        find("tie")


def test_names_of_rules_cost_no_torch() -> None:
    code = "import sys; from everseg.merge import RULES; sys.exit('torch' in sys.modules or len(RULES) < 20)"
    # The package's own front door imports torch; the table is read without it.
    bare = "import sys, types; p = types.ModuleType('everseg'); p.__path__ = [sys.argv[1]]; "
    place = Path(everseg.merge.__file__).parents[1]
    command = [sys.executable, "-c", f"{bare} sys.modules['everseg'] = p; {code}", str(place)]
    assert subprocess.run(command, check=False).returncode == 0


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "ema": ema,
    "arithmetic": task_arithmetic,
    "ties": ties,
    "dare": dare,
    "magmax": magmax,
    "pcb": pcb,
    "opcm": opcm,
    "dop": dop,
    "knots": knots,
    "layerwise": layerwise,
    "fisher": fisher_merge,
    "lorm": lorm,
    "regmean++": regmean_pp,
    "concrete": concrete,
    "adamerging": adamerging,
    "blockwise": blockwise,
}


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n not in ("dop", "knots")])
def test_a_rules_defaults_are_its_functions(name: str) -> None:
    taken = inspect.signature(FUNCTIONS[name]).parameters
    assert {f.name: f.default for f in fields(find(name))} == {
        f.name: taken[f.name].default for f in fields(find(name))
    }


@pytest.mark.parametrize("name", ["ema", "arithmetic", "magmax", "opcm", "dop", "ties", "pcb", "knots"])
def test_a_rule_merges_as_its_function_does(name: str) -> None:
    given = models()
    found = find(name)().merge([Domain(m) for m in given]).tensors
    wanted = FUNCTIONS[name](given)
    assert norm({n: found[n] - wanted[n] for n in wanted}) < 1e-14 * norm(wanted)


@pytest.mark.parametrize("name", ["ema", "magmax", "opcm", "dop"])
def test_a_state_is_plain_and_its_own(name: str) -> None:
    given, rule = models(), find(name)()
    assert isinstance(rule, Stepped)
    alone = rule.start(Domain(given[0]))
    before = {n: t.clone() for n, t in alone.merged.items()}
    after = rule.step(alone, Domain(given[1]))
    assert isinstance(after, rule.State)
    for t in given[0].values():
        t.zero_()
    assert all(torch.equal(alone.merged[n], t) for n, t in before.items()), "a state is its own"
    for kept in vars(after).values():
        assert isinstance(kept, dict | int | float), "a state is plain"
