"""The options of a request: what each is called, which values it takes, and which contradict each other.

table.py has a row for each field of SamplingParams (../params.py), rules.py those of the sampler's rules;
spec.py says what a row is, values.py reads a value. search.py and constraints.py know what the strategies'
options mean for each other, transformers_names.py the names that other libraries have for them. How a token
is chosen is not known here.
"""
