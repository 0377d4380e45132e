"""Smaller weights: rounding to int8 and int4, and the layout that the native engine multiplies from.

    quantise(weights, config, scheme)   a float model's tensors -> the quantised model's tensors
    dequantise(weights, config)         back to the float32 that they stand for
    int8.py, int4.py                    one matrix [K, N] -> integers and scales
    packing.py                          integers -> the order of memory and file (docs/formats/quantised.md)
    equalise.py                         what is done before rounding, so that outlier channels cost nothing

numpy in, packed arrays out; no text and no engine is needed. Scheme, the record of what was done, is in
gpt2.weights.scheme, because reading a model needs it, too.
"""

from gpt2.quant.equalise import equalised
from gpt2.quant.int4 import Int4Matrix, round_int4
from gpt2.quant.int8 import Int8Matrix, round_int8
from gpt2.quant.model import dequantise, integers, quantise
from gpt2.weights.scheme import Scheme

__all__ = [
    "Int4Matrix",
    "Int8Matrix",
    "Scheme",
    "dequantise",
    "equalised",
    "integers",
    "quantise",
    "round_int4",
    "round_int8",
]
