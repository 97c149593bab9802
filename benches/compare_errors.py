#!/usr/bin/env python3
"""How far each precision, and llama.cpp, are from exact arithmetic on the weights of the same GGUF file.

    compare_errors.py                       the trained model in `assets/tiny`, converted to some types, on held-out text
    compare_errors.py MODEL.gguf ...        these files, on random tokens: perplexity means nothing, the differences do

The reference is our `exact` with f32 keys and values. The others keep them as they do unless told otherwise, or all in f32 (--f32-cache).
Tokens go through one by one, as they are generated, or as many together as --batch-rows says. Differences are of the natural logarithm
of the next token's probability, its mean size; KL is the mean divergence of whole distributions from the reference's. llama.cpp is
`llama-cpp-python`, as this Python imports it.
"""

import argparse
import json
import math
import pathlib
import random
import subprocess
import sys
import tempfile

import llama_cpp
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from perplexity import windows  # noqa: E402

TYPES = ["q8_0", "q6_k", "q5_k", "q4_k", "q4_0", "q3_k", "q2_k_pure"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", type=pathlib.Path, help="a GGUF file")
    parser.add_argument("--grok1", default=ROOT / "target/release/grok1", type=pathlib.Path, help="our program")
    parser.add_argument("--oracle", default=ROOT / "../shared/oracle", type=pathlib.Path, help="where the text is")
    parser.add_argument("--types", nargs="*", default=TYPES, help="the trained model is converted to")
    parser.add_argument("--texts", type=int, default=40, metavar="N", help="windows of 512 tokens of it")
    parser.add_argument("--tokens", type=int, default=256, metavar="N", help="random ones")
    parser.add_argument("--batch-rows", type=int, default=1, metavar="N", help="tokens that are computed together")
    parser.add_argument("--f32-cache", action="store_true", help="keys and values in f32 on all sides")
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    return parser.parse_args()


def log_softmax(logits):
    logits = np.float64(logits)
    logits -= logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def ours(options, folder, model, text, precision):
    """Log-probabilities, [tokens, vocabulary]."""
    tokens, logits = folder / "tokens.json", folder / "logits.npy"
    tokens.write_text(json.dumps(text))
    cache = "f32" if options.f32_cache or precision == "exact" else "bf16"
    command = [options.grok1, "score", model, "--tokens", tokens, "--logits", logits, "--precision", precision]
    command += ["--kv-type", cache, "--batch-rows", str(options.batch_rows), "--threads", str(options.threads)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return log_softmax(np.load(logits))


def theirs(options, llama, text):
    """Log-probabilities, [tokens, vocabulary]."""
    llama.reset()
    for first in range(0, len(text), options.batch_rows):
        llama.eval(text[first : first + options.batch_rows])
    return log_softmax(llama.scores[: len(text)])


def open_llama(options, model):
    cache = llama_cpp.GGML_TYPE_F32 if options.f32_cache else llama_cpp.GGML_TYPE_F16
    return llama_cpp.Llama(str(model), n_ctx=max(512, options.tokens), n_batch=512, n_ubatch=512, n_threads=options.threads, type_k=cache,
                           n_threads_batch=options.threads, type_v=cache, logits_all=True, verbose=False)


def measure(options, folder, model, texts):
    """Of each side the mean loss, the mean difference of the next token's log-probability, the mean KL."""
    llama = open_llama(options, model)
    texts = texts or [random.Random(1).choices(range(3, llama.n_vocab()), k=options.tokens)]
    found = {}
    for text in texts:
        sides = {side: ours(options, folder, model, text, side) for side in ("exact", "standard", "fast")}
        sides["llama.cpp"] = theirs(options, llama, text)
        truth, following = sides["exact"][:-1], (range(len(text) - 1), text[1:])
        for side, logs in sides.items():
            logs = logs[:-1]
            divergence = (np.exp(truth) * (truth - logs)).sum(1)
            difference = np.abs(logs[following] - truth[following])
            found.setdefault(side, []).append((-logs[following].mean(), difference.mean(), divergence.mean()))
    return {side: np.mean(each, 0) for side, each in found.items()}


def report(name, found):
    for side, (loss, difference, divergence) in found.items():
        print(f"| `{name}` | {side} | {math.exp(loss):.3f} | {difference:.5f} | {divergence:.2e} |", flush=True)


def main():
    options = arguments()
    print("| weights | arithmetic | perplexity | difference, nats | KL |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for model in options.models:
            report(model.stem, measure(options, folder, model, None))
        if not options.models:
            texts = windows(options.oracle / "goldens/perplexity.safetensors")[: options.texts]
            for kind in options.types:
                model = folder / f"{kind}.gguf"
                command = [options.grok1, "convert", ROOT / "assets/tiny", model, "--type", kind]
                subprocess.run(command, check=True, capture_output=True)
                report(kind, measure(options, folder, model, [list(text) for text in texts]))
                model.unlink()


main()
