#!/usr/bin/env python3
"""Runs the same GGUF files through llama.cpp and through `grok1 bench`, in turns, and prints how many times as fast we are.

    compare_llama_cpp.py --grok1 target/release/grok1 MODEL.gguf ...
    compare_llama_cpp.py --grok1 target/release/grok1 --llama-bench path/to/llama-bench --prefill=--repack=0 MODEL.gguf ...

llama.cpp is `llama-cpp-python`, as this Python imports it, with weights repacked in memory and without (which of them is quicker
differs from phase to phase: the better one counts), or the program `llama-bench` with flags for each phase. Both sides get the same
threads, random tokens of the same number, and as many runs in as many processes. Machines are shared and drift: before each of our runs
`grok1 bench` measures the memory's bandwidth, a round whose bandwidth is below 80 % of the best is discarded on both sides, and medians
of the others are compared.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import time

KEEP = 0.8  # of the best bandwidth


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a GGUF file")
    parser.add_argument("--grok1", default="grok1", help="our program")
    parser.add_argument("--llama-bench", metavar="PROGRAM", help="instead of llama-cpp-python")
    parser.add_argument("--prefill", action="append", default=[], metavar="FLAG", help="llama-bench's, for prefill")
    parser.add_argument("--decode", action="append", default=[], metavar="FLAG", help="llama-bench's, for decode")
    parser.add_argument("--precision", default="standard", help="ours")
    parser.add_argument("--prompt-tokens", type=int, default=512, metavar="N")
    parser.add_argument("--tokens", type=int, default=32, metavar="N", help="decoded one by one in an empty session")
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="processes of each side, in turns")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="in each process")
    parser.add_argument("--json", action="store_true", help="print all runs")
    parser.add_argument("--inside", choices=["repacked", "plain"], help=argparse.SUPPRESS)
    return parser.parse_args()


def output(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def ours(options, model):
    """Tokens per second by phase, and the least bandwidth that was measured."""
    command = [options.grok1, "bench", model, "--json", "--precision", options.precision]
    for name in ("prompt-tokens", "tokens", "threads", "runs"):
        command += [f"--{name}", str(getattr(options, name.replace("-", "_")))]
    report = json.loads(output(command))
    cases = report["models"][0]["cases"]
    rates = {case["phase"]: [run["rate"] for run in case["all"]] for case in cases}
    return rates, report["bandwidth"]["min"], {case["phase"]: case for case in cases}


def theirs(options, model):
    """Tokens per second by phase."""
    if options.llama_bench is None:
        settings = []
        for setting in ("repacked", "plain"):
            command = [sys.executable, __file__, "--inside", setting, model]
            for name in ("prompt-tokens", "tokens", "threads", "runs"):
                command += [f"--{name}", str(getattr(options, name.replace("-", "_")))]
            settings.append(json.loads(output(command).splitlines()[-1]))
        return {phase: max((rates[phase] for rates in settings), key=statistics.median) for phase in settings[0]}
    rates = {}
    for phase, prompt, tokens in (("prefill", options.prompt_tokens, 0), ("decode", 0, options.tokens)):
        if prompt or tokens:
            command = [options.llama_bench, "-m", model, "-t", str(options.threads), "-r", str(options.runs), "-o", "json"]
            command += ["-p", str(prompt), "-n", str(tokens)] + getattr(options, phase)
            tests = json.loads(output(command))
            rates[phase] = [rate for test in tests for rate in test["samples_ts"]]
    return rates


def inside(options):
    """llama-cpp-python, in a process of its own."""
    import llama_cpp

    prompt, tokens = options.prompt_tokens, options.tokens
    # Not an argument of `Llama`.
    defaults = llama_cpp.llama_model_default_params

    def parameters():
        found = defaults()
        found.use_extra_bufts = options.inside == "repacked"
        return found

    llama_cpp.llama_cpp.llama_model_default_params = parameters
    llama = llama_cpp.Llama(options.models[0], n_ctx=max(prompt, tokens) + 8, n_batch=512, n_ubatch=512, verbose=False,
                            n_threads=options.threads, n_threads_batch=options.threads)
    draw = random.Random(1)
    text = [draw.randrange(300, llama.n_vocab()) for _ in range(max(prompt, tokens))]
    rates = {"prefill": [], "decode": []}
    # The first one warms up.
    for _ in range(options.runs + 1):
        for phase, count, step in (("prefill", prompt, prompt), ("decode", tokens, 1)):
            llama.reset()
            start = time.perf_counter()
            for first in range(0, count, max(step, 1)):
                llama.eval(text[first:first + step])
            rates[phase].append(count / (time.perf_counter() - start))
    print(json.dumps({phase: found[1:] for phase, found in rates.items() if found[-1] > 0}))


def compare(options, model):
    """Rounds of both, each with the least bandwidth measured around it."""
    before, bandwidth, cases = ours(options, model)
    rounds = []
    for _ in range(options.rounds):
        peer = theirs(options, model)
        after, next_bandwidth, cases = ours(options, model)
        ours_around = {phase: before[phase] + after[phase] for phase in after}
        rounds.append((min(bandwidth, next_bandwidth), ours_around, peer))
        before, bandwidth = after, next_bandwidth
    return rounds, cases


def main():
    options = arguments()
    if options.inside:
        return inside(options)
    line = "{:24} {:8} {:>12} {:>12} {:>7}  {:>9} {:>8} {:>11}"
    if not options.json:
        print(line.format("model", "phase", "ours tok/s", "llama.cpp", "ratio", "bandwidth", "peak", "rounds kept"))
    for model in options.models:
        rounds, cases = compare(options, model)
        best = max(bandwidth for bandwidth, _, _ in rounds)
        kept = [(own, peer) for bandwidth, own, peer in rounds if bandwidth >= KEEP * best]
        if options.json:
            print(json.dumps({"model": model, "kept": len(kept), "rounds": rounds}))
            continue
        for phase, case in cases.items():
            own, peer = (statistics.median(rate for pair in kept for rate in pair[side][phase]) for side in (0, 1))
            share = lambda name: "-" if case[name] is None else f"{100 * case[name]:.0f} %"
            name = model.rsplit("/", 1)[-1]
            print(line.format(name, phase, f"{own:.2f}", f"{peer:.2f}", f"{own / peer:.2f}", share("bandwidth_share"),
                              share("peak_share"), f"{len(kept)} of {len(rounds)}"), flush=True)


main()
