#!/usr/bin/env python3
"""What each type and mix costs in perplexity: the table in the documentation of `grok1::convert`.

    scripts/perplexity.py [--grok1 PATH] [--oracle PATH]

Converts the model in `assets/tiny`, scores the 40 held-out windows of the reference results with each file, and prints a table in
Markdown. Needs Python 3 alone.
"""

import argparse
import json
import math
import pathlib
import struct
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
TYPES = """f32 f16 bf16 q8_0 q6_k q5_1 q5_k_m q5_k q5_0 q4_k_m q4_1 q4_k q4_0 iq4_nl iq4_xs q3_k_m q3_k q2_k q2_k_pure""".split()


def windows(path):
    """The token ids, [40][512], of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    entry = json.loads(data[8 : 8 + length])["ids"]
    (start, end), (rows, columns) = entry["data_offsets"], entry["shape"]
    ids = struct.unpack_from(f"<{rows * columns}i", data, 8 + length + start)
    assert end - start == 4 * len(ids)
    return [ids[row * columns :][:columns] for row in range(rows)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grok1", default=ROOT / "target/release/grok1", type=pathlib.Path)
    parser.add_argument("--types", nargs="*", default=TYPES)
    parser.add_argument("--oracle", default=ROOT / "../shared/oracle", type=pathlib.Path)
    args = parser.parse_args()
    texts = windows(args.oracle / "goldens/perplexity.safetensors")
    tokens = pathlib.Path("tokens.json")

    def nll(model):
        """Of all windows, which have the same number of tokens."""
        total = 0.0
        for text in texts:
            (folder / tokens).write_text(json.dumps(text))
            run = [args.grok1, "score", model, "--tokens", folder / tokens]
            total += json.loads(subprocess.run(run, check=True, capture_output=True).stdout)["nll"]
        return total / len(texts)

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        truth = nll(ROOT / "assets/tiny")
        print("| type | bits per weight | perplexity | log-likelihood lost per token |\n|---|---|---|---|")
        print(f"| ckpt-0 | | {math.exp(truth):.3f} | |")
        weights = None
        for kind in args.types:
            path = folder / f"{kind}.gguf"
            subprocess.run([args.grok1, "convert", ROOT / "assets/tiny", path, "--type", kind], check=True, capture_output=True)
            inspect = subprocess.run([args.grok1, "inspect", path, "--json"], check=True, capture_output=True)
            report = json.loads(inspect.stdout)
            weights = report["parameters"]
            found = nll(path)
            bits = 8 * report["bytes"] / weights
            print(f"| `{kind}` | {bits:.2f} | {math.exp(found):.3f} | {found - truth:+.4f} |", flush=True)
            path.unlink()


if __name__ == "__main__":
    main()
