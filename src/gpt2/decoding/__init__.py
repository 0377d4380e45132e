"""How the next token is chosen: the options of a request, the rules in readable numpy, and stop strings.

The engine's fast sampler is native/sampling/; what is here in numpy is its twin. This room knows neither
models nor tokenizers.
"""

from gpt2.decoding.options.constraints import DisjunctiveConstraint, PhrasalConstraint
from gpt2.decoding.options.rules import RULE_ORDER
from gpt2.decoding.options.spec import OptionSpec
from gpt2.decoding.options.table import option_specs
from gpt2.decoding.params import PRESETS, SamplingParams, fields_table, preset_fields
from gpt2.decoding.templates import TEMPLATES, Message, Template, as_template

__all__ = [
    "PRESETS",
    "RULE_ORDER",
    "TEMPLATES",
    "DisjunctiveConstraint",
    "Message",
    "OptionSpec",
    "PhrasalConstraint",
    "SamplingParams",
    "Template",
    "as_template",
    "fields_table",
    "option_specs",
    "preset_fields",
]
