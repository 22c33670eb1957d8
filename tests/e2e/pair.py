# SPDX-License-Identifier: Apache-2.0
"""Halves of a model in files of their own (docs/weights.md), written here from a Q4_1 model by nothing but
this file: a test of what reads them needs no program that makes them.

A block of Q4_1 is a scale, a minimum and 32 codes in g4's order. So g4:32 of a Q4_1 tensor is the same
numbers in another place, and the halves must give the very ids of the model."""
import array
import hashlib
import os
import struct

U32, STRING = 4, 8
F32, F16, Q4_1, I8, I16, I32 = 0, 1, 3, 24, 25, 26
SIZES = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
         12: (256, 144), 13: (256, 176), 14: (256, 210), 24: (1, 1), 25: (1, 2), 26: (1, 4), 30: (1, 2)}
SCALAR = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
LINEAR = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


class Tensor:
    def __init__(self, name, ne, kind, data):
        self.name, self.ne, self.kind, self.data = name, list(ne), kind, data


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


class Model:
    """A GGUF: metadata as bytes (name -> type and value), tensors."""

    def __init__(self, path):
        with open(path, "rb") as f:
            raw = f.read()
        self.at, self.raw = 0, raw
        assert self.take("4s") == b"GGUF" and self.take("I") == 3
        n_tensors, n_kv = self.take("Q"), self.take("Q")
        self.metadata = {}
        for _ in range(n_kv):
            key, start = self.text(), self.at
            kind = self.take("I")
            self.skip(kind)
            self.metadata[key] = raw[start:self.at]
        infos = []
        for _ in range(n_tensors):
            name = self.text()
            ne = [self.take("Q") for _ in range(self.take("I"))]
            infos.append((name, ne, self.take("I"), self.take("Q")))
        base = (self.at + 31) // 32 * 32
        self.tensors = {}
        for name, ne, kind, offset in infos:
            n = 1
            for d in ne:
                n *= d
            values, size = SIZES[kind]
            data = raw[base + offset:base + offset + n // values * size]
            self.tensors[name] = Tensor(name, ne, kind, data)
        family = self.metadata["general.architecture"][12:].decode()
        self.n_layers = struct.unpack("<I", self.metadata[family + ".block_count"][4:])[0]

    def take(self, fmt):
        value, = struct.unpack_from("<" + fmt, self.raw, self.at)
        self.at += struct.calcsize("<" + fmt)
        return value

    def text(self):
        n = self.take("Q")
        self.at += n
        return self.raw[self.at - n:self.at].decode()

    def skip(self, kind):
        if kind == STRING:
            self.text()
        elif kind == 9:
            element, n = self.take("I"), self.take("Q")
            for _ in range(n if element == STRING else 1):
                if element == STRING:
                    self.text()
                else:
                    self.at += n * SCALAR[element]
        else:
            self.at += SCALAR[kind]


def write(path, metadata, tensors):
    with open(path, "wb") as f:
        f.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
        for key, value in metadata.items():
            f.write(string(key) + value)
        offset = 0
        for t in tensors:
            f.write(string(t.name) + struct.pack("<I%dQIQ" % len(t.ne), len(t.ne), *t.ne, t.kind, offset))
            offset += (len(t.data) + 31) // 32 * 32
        f.write(b"\0" * (-f.tell() % 32))
        for t in tensors:
            f.write(t.data + b"\0" * (-len(t.data) % 32))


def to_g4(t, sparse=False):
    """A Q4_1 tensor's parts as g4:32; with a sparse part of zeros, which changes nothing."""
    cols, rows = t.ne
    blocks = cols // 32
    scale, least, codes = bytearray(), bytearray(), bytearray()
    for b in range(0, len(t.data), 20):
        scale += t.data[b:b + 2]
        least += t.data[b + 2:b + 4]
        codes += t.data[b + 4:b + 20]
    parts = [Tensor(t.name + ".codes", [cols // 2, rows], I8, bytes(codes)),
             Tensor(t.name + ".scale", [blocks, rows], F16, bytes(scale)),
             Tensor(t.name + ".min", [blocks, rows], F16, bytes(least))]
    if sparse:
        parts += sparse_part(t.name, [[(r * 7 % cols, 0.)] if r % 3 else [] for r in range(rows)])
    return "g4:32", parts


def sparse_part(name, rows):
    starts, cols, values = [0], [], []
    for entries in rows:
        for col, value in entries:
            cols.append(col)
            values.append(value)
        starts.append(len(cols))
    return [Tensor(name + ".sp_rows", [len(starts)], I32, array.array("i", starts).tobytes()),
            Tensor(name + ".sp_cols", [len(cols)], I16, array.array("H", cols).tobytes()),
            Tensor(name + ".sp_values", [len(cols)], F16, struct.pack("<%de" % len(values), *values))]


def rows_of(t):
    """A Q4_1 tensor's values, row by row."""
    cols, rows = t.ne
    for r in range(rows):
        row = []
        for b in range(r * cols // 32, (r + 1) * cols // 32):
            d, m = struct.unpack_from("<2e", t.data, b * 20)
            block = t.data[b * 20 + 4:b * 20 + 20]
            row += [d * (byte & 15) + m for byte in block] + [d * (byte >> 4) + m for byte in block]
        yield row


def pack_codes(codes, bits):
    """One row's codes as the file has them, 32 columns at a time."""
    out = bytearray()
    for b in range(0, len(codes), 32):
        c = codes[b:b + 32]
        if bits == 4:
            out += bytes(c[i] | c[i + 16] << 4 for i in range(16))
            continue
        out += bytes(sum((c[i + 8 * k] & 3) << 2 * k for k in range(4)) for i in range(8))
        if bits == 3:
            out += struct.pack("<I", sum((code >> 2) << i for i, code in enumerate(c)))
    return bytes(out)


def to_sq(t, bits, outliers=3):
    """Round to nearest of 2^bits levels from the row's least to its greatest, its `outliers` greatest apart."""
    cols, rows = t.ne
    codes, lut, sparse = bytearray(), bytearray(), []
    most = (1 << bits) - 1
    for row in rows_of(t):
        apart = sorted(sorted(range(cols), key=lambda c: -abs(row[c]))[:outliers])
        rest = [v for c, v in enumerate(row) if c not in apart]
        low, step = min(rest), (max(rest) - min(rest)) / most
        levels = struct.unpack("<%de" % (most + 1), struct.pack(
            "<%de" % (most + 1), *(low + step * i for i in range(most + 1))))
        code = [min(most, max(0, round((v - low) / step))) for v in row]
        codes += pack_codes(code, bits)
        lut += struct.pack("<%de" % (most + 1), *levels)
        sparse.append([(c, row[c] - levels[code[c]]) for c in apart])
    return "sq%d" % bits, [Tensor(t.name + ".codes", [cols * bits // 8, rows], I8, bytes(codes)),
                           Tensor(t.name + ".lut", [most + 1, rows], F16, bytes(lut)),
                           *sparse_part(t.name, sparse)]


def make(model, folder, split, schemes=None, salt="", parent="0123456789abcdef" * 2):
    """edge.gguf and cloud.gguf; schemes: by tensor's name what makes its parts, else g4 of all Q4_1 ones."""
    parts, keys = {}, {}
    for t in model.tensors.values():
        parts[t.name] = [t]
        if t.kind == Q4_1 and t.name.split(".")[-2] in LINEAR:
            scheme, parts[t.name] = (schemes or {}).get(t.name, to_g4)(t)
            keys[t.name] = scheme
    pair = hashlib.md5(("%s %d" % (salt, split)).encode()).hexdigest()
    os.makedirs(folder, exist_ok=True)
    for half in ("edge", "cloud"):
        layers = range(split) if half == "edge" else range(split, model.n_layers)
        ours = [name for name in parts if name.startswith("blk.") and int(name.split(".")[1]) in layers]
        tied = "output.weight" not in parts
        if half == "edge" or tied:
            ours.append("token_embd.weight")
        if half == "cloud":
            ours += ["output_norm.weight"] + ([] if tied else ["output.weight"])
        ours += [name for name in ("rope_freqs.weight",) if name in parts]
        text = {"isthmus.stage": half, "isthmus.front": "mixed", "isthmus.back": "mixed",
                "isthmus.parent": parent, "isthmus.pair": pair,
                **{"isthmus.scheme." + name: keys[name] for name in ours if name in keys}}
        number = {"isthmus.version": 1, "isthmus.split": split, "isthmus.layers": model.n_layers}
        metadata = {**model.metadata,
                    **{key: struct.pack("<I", STRING) + string(value) for key, value in text.items()},
                    **{key: struct.pack("<II", U32, value) for key, value in number.items()}}
        write(os.path.join(folder, half + ".gguf"), metadata, [t for name in ours for t in parts[name]])
    return pair
