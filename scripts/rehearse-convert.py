#!/usr/bin/env python3
"""Converts layers of Grok-1's true shape and tells how near that comes to what disk and processor can do.

    scripts/rehearse-convert.py [--grok1 PATH] [--folder PATH] [--layers N]

Times the conversion, with its peak of memory, and in turns writing a file of the output's size, which is the disk's limit. The
processor's is what `cargo bench --bench speed -- quantise` tells, times the number of cores. The input is random int8 in the
release's layout, made while it is read, or a file of bf16 that was made of it. Needs Python 3, 13 GB of disk for each
layer, and time.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
ELEMENTS = 8 * 3 * 6144 * 32768 + 2 * 6144 * 6144 + 2 * 6144 * 1024


def run(command):
    """Seconds, and the peak of resident memory in MB, of a child."""
    pid = os.fork()
    if pid == 0:
        out = os.open(os.devnull, os.O_WRONLY)
        os.dup2(out, 1)
        os.execv(command[0], command)
    began = time.monotonic()
    _, status, usage = os.wait4(pid, 0)
    took = time.monotonic() - began
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    return took, usage.ru_maxrss / 1000


def disk(folder, size):
    """Bytes per second of writing `size` bytes and waiting for the disk."""
    path = folder / "limit"
    block = os.urandom(1 << 24)
    began = time.monotonic()
    with open(path, "wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    took = time.monotonic() - began
    path.unlink()
    return size / took


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grok1", default=ROOT / "target/release/grok1", type=pathlib.Path)
    parser.add_argument("--folder", default=ROOT / "target", type=pathlib.Path)
    parser.add_argument("--layers", default=1, type=int)
    args = parser.parse_args()
    grok1, elements = str(args.grok1), args.layers * ELEMENTS
    synthetic = ["--synthetic", f"layers={args.layers},type=i8,vocab=2048"]
    made = args.folder / "rehearsal-bf16.gguf"
    cases = [(synthetic, "q8_0"), (synthetic, "q4_k_m"), (synthetic, "bf16"), ([str(made)], "q4_k_m"), ([str(made)], "q2_k")]
    print("| input | type | s | M weights/s | MB/s written | disk's limit, MB/s | peak memory, MB |\n|---|---|---|---|---|---|---|")
    for source, kind in cases:
        out = made if kind == "bf16" else args.folder / "rehearsal.gguf"
        took, memory = run([grok1, "convert", *source, str(out), "--type", kind])
        size = out.stat().st_size
        limit = disk(args.folder, min(size, 2 << 30))
        name = "int8" if source == synthetic else "bf16 file"
        print(
            f"| {name} | {kind} | {took:.1f} | {elements / took / 1e6:.0f} | {size / took / 1e6:.0f} "
            f"| {limit / 1e6:.0f} | {memory:.0f} |",
            flush=True,
        )
        if out != made:
            out.unlink()
    made.unlink()


if __name__ == "__main__":
    main()
