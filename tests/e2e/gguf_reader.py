# SPDX-License-Identifier: Apache-2.0
"""What another program, the `gguf` package, reads in files of `isthmus quantize`: run by test_quantize_files.py, with
the interpreter of tools/python-packages.

    gguf_reader.py PLAIN.gguf HALF.gguf...

Matrices of PLAIN are F16. JSON: of each type how many of the halves' matrices have, rounded to f16, the very values
that PLAIN has, and how many have others; and the halves' metadata that is ours."""
import json
import sys

import gguf
import numpy


def rounded(tensor):
    """f16 values, row by row."""
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    return numpy.asarray(values, dtype=numpy.float32).astype(numpy.float16).reshape(-1)


def main():
    plain = {t.name: t for t in gguf.GGUFReader(sys.argv[1]).tensors}
    types, metadata = {}, []
    for path in sys.argv[2:]:
        half = gguf.GGUFReader(path)
        metadata.append({name: field.contents() for name, field in half.fields.items() if name.startswith("isthmus.")})
        for t in half.tensors:
            if not t.name.startswith("blk.") or len(t.shape) < 2:
                continue
            same = numpy.array_equal(rounded(t).view(numpy.uint16), rounded(plain[t.name]).view(numpy.uint16))
            found = types.setdefault(t.tensor_type.name, {"equal": 0, "other": 0})
            found["equal" if same else "other"] += 1
    print(json.dumps({"types": types, "metadata": metadata}))


main()
