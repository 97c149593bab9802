#!/usr/bin/env python3
"""Whether others understand what `grok1 convert` writes.

    scripts/peers.py gguf  [--grok1 PATH]   the `gguf` package reads every file back completely
    scripts/peers.py llama [--grok1 PATH]   llama.cpp loads every file, and its logits are ours but for its int8 activations

Converts the model in `assets/tiny` to every type and mix, the larger sets of files included, into a temporary folder. Needs Python 3,
`pip install gguf==0.19.0`, and for `llama`

    CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON" pip install --no-binary llama-cpp-python llama-cpp-python==0.3.36

which compiles for some minutes.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
TINY = ROOT / "assets/tiny"

# Type or mix, and the largest error of its matrices relative to their size that is accepted.
TYPES = {
    "f32": 1e-7,
    "f16": 0.0003,
    "bf16": 0.002,
    "q8_0": 0.005,
    "q6_k": 0.02,
    "q5_0": 0.05,
    "q5_1": 0.05,
    "q5_k": 0.04,
    "q5_k_m": 0.04,
    "q4_0": 0.1,
    "q4_1": 0.09,
    "iq4_nl": 0.08,
    "iq4_xs": 0.08,
    "q4_k": 0.08,
    "q4_k_m": 0.08,
    "q3_k": 0.17,
    "q3_k_m": 0.17,
    "q2_k": 0.32,
    "q2_k_pure": 0.32,
}

# How far llama.cpp's logits may be from ours on the same file: it rounds activations to int8 where weights are quantised.
LLAMA = {"f32": 0.001, "f16": 0.001, "bf16": 0.002}
LLAMA_QUANTISED = 0.012


def convert(grok1, source, out, *options):
    subprocess.run([grok1, "convert", source, out, *options], check=True, stdout=subprocess.DEVNULL)


def files(grok1, folder):
    """Each type with its file; those of a set with the first one."""
    for name in TYPES:
        path = folder / f"{name}.gguf"
        convert(grok1, TINY, path, "--type", name)
        yield name, [path]
        path.unlink()
    convert(grok1, TINY, folder / "set.gguf", "--type", "q8_0", "--split-max-size", "2M")
    yield "q8_0", sorted(folder.glob("set-*.gguf"))


def read_back(grok1, folder):
    """Every key and tensor through the `gguf` package, the numbers against those of an f32 file."""
    import gguf

    def tensors(paths):
        found = {}
        for path in paths:
            for tensor in gguf.GGUFReader(path).tensors:
                assert tensor.name not in found, f"{tensor.name} twice"
                found[tensor.name] = (tensor, gguf.dequantize(tensor.data, tensor.tensor_type))
        return found

    def value(field):
        return field.contents()

    truth_path = folder / "truth.gguf"
    convert(grok1, TINY, truth_path, "--type", "f32")
    truth = tensors([truth_path])
    vocabulary = None
    for name, paths in files(grok1, folder):
        fields = gguf.GGUFReader(paths[0]).fields
        assert value(fields["general.architecture"]) == "grok"
        assert value(fields["grok.block_count"]) == 4
        assert len(value(fields["tokenizer.ggml.tokens"])) == 2048
        words = [value(fields[f"tokenizer.ggml.{key}"]) for key in ("tokens", "scores", "token_type")]
        assert vocabulary in (None, words)
        vocabulary = words
        for path in paths[1:]:
            assert value(gguf.GGUFReader(path).fields["split.count"]) == len(paths)
        found = tensors(paths)
        assert found.keys() == truth.keys()
        worst = 0.0
        for tensor_name, (tensor, numbers) in found.items():
            expected_tensor, expected = truth[tensor_name]
            assert list(tensor.shape) == list(expected_tensor.shape), tensor_name
            difference = np.float64(numbers).reshape(-1) - np.float64(expected).reshape(-1)
            worst = max(worst, np.sqrt(np.mean(difference**2) / np.mean(np.float64(expected) ** 2)))
        print(f"{name:8} {len(paths)} files, {len(found)} tensors, relative error {worst:.2e}")
        assert worst <= TYPES[name], f"{name}: {worst} is more than {TYPES[name]}"


def run_llama(grok1, folder):
    """The logits of one text from llama.cpp and from grok1."""
    import llama_cpp

    ids = json.loads((ROOT / "tests/fixtures/goldens/tiny.json").read_text())["prompts"][-1]["ids"]
    tokens, logits = folder / "tokens.json", folder / "logits.npy"
    tokens.write_text(json.dumps(ids))
    for name, paths in files(grok1, folder):
        subprocess.run(
            [grok1, "score", paths[0], "--tokens", tokens, "--logits", logits, "--precision", "exact"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        ours = np.float64(np.load(logits))
        model = llama_cpp.Llama(
            str(paths[0]), n_ctx=512, n_batch=512, n_threads=2, logits_all=True, verbose=False,
            type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32,
        )  # fmt: skip
        assert model.tokenize(b"To be, or not to be", add_bos=False) == encode(grok1, paths[0])
        model.eval(ids)
        theirs = np.float64(model.scores[: len(ids)])
        distance = np.sqrt(np.mean((ours - theirs) ** 2) / np.mean(ours**2))
        agree = np.mean(ours.argmax(1) == theirs.argmax(1))
        print(f"{name:8} relative difference of logits {distance:.2e}, same best token {agree:.3f}")
        limit = LLAMA.get(name, LLAMA_QUANTISED)
        assert distance <= limit, f"{name}: {distance} is more than {limit}"
        del model


def encode(grok1, model):
    found = subprocess.run(
        [grok1, "tokenize", model, "To be, or not to be"], check=True, capture_output=True
    )
    return [int(token) for token in found.stdout.split()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=["gguf", "llama"])
    parser.add_argument("--grok1", default=ROOT / "target/release/grok1", type=pathlib.Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        peer = {"gguf": read_back, "llama": run_llama}[args.peer]
        peer(args.grok1.resolve(), pathlib.Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
