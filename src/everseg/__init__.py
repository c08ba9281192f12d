"""everseg keeps one image segmenter up to date for ever: a stream of domains, learned without forgetting.

from everseg import SAMCL, Stream, load, load_base, run
"""

from everseg.data import Stream
from everseg.domains.methods.samcl import SAMCL
from everseg.errors import UserError
from everseg.methods import METHODS, build, configure
from everseg.models.promptable.load import load_base
from everseg.runs.folder import Run, RunConfig, load
from everseg.runs.learn import run
from everseg.types import ImageQuery, Prompts, PromptSample, Query, SemanticSample, Stage

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "SAMCL",
    "ImageQuery",
    "PromptSample",
    "Prompts",
    "Query",
    "Run",
    "RunConfig",
    "SemanticSample",
    "Stage",
    "Stream",
    "UserError",
    "build",
    "configure",
    "load",
    "load_base",
    "run",
]
