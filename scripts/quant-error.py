#!/usr/bin/env python3
"""How much each type loses, and how much llama.cpp loses in the same type without an importance matrix: a table in Markdown.

    scripts/quant-error.py [--grok1 PATH] [--ggml PATH]

The error is the root of the mean squared difference to the f32 weights, relative to the root of their mean square, over all matrices
that `grok1 convert --type` writes in the type: those of a model of Gaussian weights and of the one in `assets/tiny`. llama.cpp's is
that of `ggml_quantize_chunk` on the same matrices, called in libggml-base.so: of the `llama-cpp-python` package unless `--ggml` says
where. Exits with 1 if an error of ours is larger.

Needs Python 3, `pip install gguf==0.19.0`, and

    CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON" pip install --no-binary llama-cpp-python llama-cpp-python==0.3.36

which compiles for some minutes.
"""

import argparse
import ctypes
import importlib.util
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
TYPES = (
    *("F16", "BF16", "Q8_0", "Q6_K", "Q5_0", "Q5_1", "Q5_K", "Q4_0", "Q4_1", "Q4_K"),
    *("IQ4_NL", "IQ4_XS", "Q3_K", "Q2_K"),
)

# Of the Gaussian model. Rows are multiples of 256, a super-block.
LAYERS, WIDTH, HEADS, KV_HEADS, FFN, EXPERTS, VOCAB = 1, 512, 4, 2, 1024, 2, 1024
HEAD = WIDTH // HEADS


def write_gaussian(path):
    """A Grok-1 of random weights: the tensors and keys that a file must have, and a vocabulary of nothing but names."""
    random = np.random.Generator(np.random.PCG64(1))
    writer = gguf.GGUFWriter(path, "grok")
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_rope_dimension_count(HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(2)
    writer.add_vocab_size(VOCAB)
    names = ["<unk>", "<s>", "</s>"] + [f"word{i}" for i in range(3, VOCAB)]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(names)
    writer.add_token_scores([-float(i) for i in range(VOCAB)])
    writer.add_token_types(kinds + [gguf.TokenType.NORMAL] * (VOCAB - 3))

    def norm(name):
        writer.add_tensor(name, np.ones(WIDTH, np.float32))

    def matrix(name, *shape):
        writer.add_tensor(name, np.float32(0.02) * random.standard_normal(shape, np.float32))

    matrix("token_embd.weight", VOCAB, WIDTH)
    norm("output_norm.weight")
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        for name in ("attn_norm", "attn_output_norm", "ffn_norm", "layer_output_norm"):
            norm(f"{block}{name}.weight")
        matrix(block + "attn_q.weight", HEADS * HEAD, WIDTH)
        matrix(block + "attn_k.weight", KV_HEADS * HEAD, WIDTH)
        matrix(block + "attn_v.weight", KV_HEADS * HEAD, WIDTH)
        matrix(block + "attn_output.weight", WIDTH, HEADS * HEAD)
        matrix(block + "ffn_gate_inp.weight", EXPERTS, WIDTH)
        matrix(block + "ffn_gate_exps.weight", EXPERTS, FFN, WIDTH)
        matrix(block + "ffn_up_exps.weight", EXPERTS, FFN, WIDTH)
        matrix(block + "ffn_down_exps.weight", EXPERTS, WIDTH, FFN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors(path):
    """Name to type and elements as f32."""
    return {
        tensor.name: (tensor.tensor_type, gguf.dequantize(tensor.data, tensor.tensor_type))
        for tensor in gguf.GGUFReader(path).tensors
    }


class Ggml:
    """llama.cpp's quantisers."""

    def __init__(self, path):
        if path is None:
            package = importlib.util.find_spec("llama_cpp")
            if package is None:
                sys.exit("llama-cpp-python is not installed, and --ggml does not say where its library is")
            path = pathlib.Path(package.origin).parent / "lib/libggml-base.so"

        class Parameters(ctypes.Structure):
            _fields_ = [("size", ctypes.c_size_t), ("memory", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]

        self.library = ctypes.CDLL(str(path))
        self.library.ggml_init.argtypes = [Parameters]
        self.library.ggml_init.restype = ctypes.c_void_p
        self.library.ggml_init(Parameters(1 << 16, None, True))  # fills the tables of f16
        self.library.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.library.ggml_quantize_chunk.argtypes = [
            *(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p),
            *(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p),
        ]

    def round_trip(self, kind, values):
        rows, width = values.size // values.shape[-1], values.shape[-1]
        block, size = gguf.GGML_QUANT_SIZES[kind]
        out = np.empty((rows, width // block * size), np.uint8)
        values = np.ascontiguousarray(values)
        self.library.ggml_quantize_init(int(kind))
        written = self.library.ggml_quantize_chunk(
            int(kind), values.ctypes.data, out.ctypes.data, 0, rows, width, None
        )
        assert written == out.nbytes
        return gguf.dequantize(out, kind).reshape(values.shape)


def errors(grok1, ggml, source, kind, folder):
    """Ours and llama.cpp's."""
    out = folder / "out.gguf"
    subprocess.run([grok1, "convert", source, out, "--type", kind.name], check=True, stdout=subprocess.DEVNULL)
    truth, found = tensors(source), tensors(out)
    out.unlink()
    ours = theirs = whole = 0.0
    for name, (stored, values) in found.items():
        if stored == kind:
            expected = truth[name][1].reshape(values.shape)
            ours += np.sum((np.float64(values) - expected) ** 2)
            theirs += np.sum((np.float64(ggml.round_trip(kind, expected)) - expected) ** 2)
            whole += np.sum(np.float64(expected) ** 2)
    assert whole > 0, f"nothing was written as {kind.name}"
    return np.sqrt(ours / whole), np.sqrt(theirs / whole)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grok1", default=ROOT / "target/release/grok1", type=pathlib.Path)
    parser.add_argument("--ggml", type=pathlib.Path, help="libggml-base.so")
    args = parser.parse_args()
    grok1, ggml = args.grok1.resolve(), Ggml(args.ggml)
    larger = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        sources = [folder / "gaussian.gguf", folder / "tiny.gguf"]
        write_gaussian(sources[0])
        subprocess.run(
            [grok1, "convert", ROOT / "assets/tiny", sources[1], "--type", "f32"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        print("| type | Gaussian: grok1 | llama.cpp | ratio | tiny model: grok1 | llama.cpp | ratio |")
        print("|---|---|---|---|---|---|---|")
        for kind in map(gguf.GGMLQuantizationType.__getitem__, TYPES):
            cells = []
            for source in sources:
                ours, theirs = errors(grok1, ggml, source, kind, folder)
                cells += [f"{ours:.6f}", f"{theirs:.6f}", f"{ours / theirs:.4f}"]
                # Sums of equal errors may differ in their last digits.
                if ours > theirs * (1 + 1e-9):
                    larger.append(f"{kind.name}: {ours} instead of {theirs}")
            print(f"| {kind.name} | {' | '.join(cells)} |", flush=True)
    if larger:
        sys.exit("larger than llama.cpp's: " + "; ".join(larger))


if __name__ == "__main__":
    main()
