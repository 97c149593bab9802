#!/usr/bin/env python3
"""Compiles the kernels of GPUs with the vendors' compilers, for devices that need not be there.

    scripts/gpu-compile.py [--all]

What is compiled is what the crate says: `examples/kernels.rs` writes its modules for each device, without kernels that a device has
no instructions for. sm_90 and gfx906 get every module, the other devices those of MAIN below; with --all every device gets all.

For NVIDIA by NVRTC, which the package nvidia-cuda-nvrtc brings and this script puts into target/gpu-compile; for AMD by `clang-19`, or
what CLANG names, with ROCm's device libraries in AMD_BITCODE or where Debian's packages clang-19 and rocm-device-libs put them. A
compiler that cannot be had is skipped, and that is said; with CI=true that is a failure. What a module came to is kept in
target/gpu-compile, by the module, all that it includes, the options and the compiler: only what has changed is compiled again.

Prints for each device the largest number of registers, which kernels spill more of them than a few, and how many loads of 16 bytes
there are. Exits with 1 if something does not compile, or if a kernel for single rows, whose speed is that of decoding, spills, keeps
variables in memory, takes so many registers that a processor has room for one block only, or loads nothing by 16 bytes; or if a
kernel for tiles of many rows, whose speed is that of prompts, keeps variables in memory.

Without --all, and with nothing kept, it takes minutes, of all cores; with nothing changed, some seconds.
"""

import argparse
import concurrent.futures
import ctypes
import glob
import hashlib
import inspect
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import typing

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORK = ROOT / "target" / "gpu-compile"
SOURCE = WORK / "source"
RESULTS = WORK / "results"
NVRTC = "nvidia-cuda-nvrtc==13.0.88"

# The first of each gets every module.
NVIDIA = ("sm_90", "sm_75", "sm_80", "sm_86", "sm_90a", "sm_100", "sm_120")
AMD = ("gfx906", "gfx90a", "gfx942", "gfx1100")
# Modules that every device gets; also with something after the name, as in q4_k_packed.
MAIN = ("plain", "mma", "tiled_mma_q4_k", "tiled_mma_i8_in_out", "bf16", "i8_in_out", "q4_k", "iq3_xxs")
# Bytes or registers. NVIDIA's assembler spills that much around loops, lest one block less fit on a processor.
FEW = 16
# Weights of one byte stored [inputs, outputs] come eight at a time.
NARROW = re.compile(r"_(i8|f8_e4m3)_in_out_1$")
# Of a thread, with which two blocks of 256 fit on a processor; AMD's have twice as many.
REGISTERS = {NVIDIA: 128, AMD: 256}


class Kernel(typing.NamedTuple):
    """What a compiler made of one."""

    name: str
    registers: int
    spilled: int
    kept: int  # bytes of variables that are in memory, beside what was spilled
    loads: int  # of 16 bytes
    single: bool = False  # for single rows
    tiled: bool = False  # for tiles of many rows


def included(text, found):
    """Adds the files that a text includes, and what they include."""
    for name in re.findall(r'^#include "(.*)"', text, re.MULTILINE):
        if name not in found:
            found[name] = (SOURCE / name).read_text()
            included(found[name], found)
    return found


class Nvrtc:
    """NVRTC in this process."""

    identity = NVRTC

    def __init__(self):
        python = WORK / "python"
        pattern = str(python / "lib/python3*/site-packages/nvidia/cu13/lib")
        if not glob.glob(pattern):
            subprocess.run([sys.executable, "-m", "venv", python], check=True, capture_output=True)
            pip = [python / "bin/pip", "install", "--quiet", "--disable-pip-version-check", NVRTC]
            subprocess.run(pip, check=True, capture_output=True, text=True)
        (folder,) = glob.glob(pattern)
        # It looks for its other half by name only, and takes one that is loaded.
        ctypes.CDLL(f"{folder}/libnvrtc-builtins.so.13.0")
        self.library = ctypes.CDLL(f"{folder}/libnvrtc.so.13")

    def text(self, program, what):
        size = ctypes.c_size_t()
        getattr(self.library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        getattr(self.library, f"nvrtcGet{what}")(program, text)
        return text.value.decode()

    def compile(self, device, module, text, headers, options):
        texts = (ctypes.c_char_p * len(headers))(*(header.encode() for header in headers.values()))
        names = (ctypes.c_char_p * len(headers))(*(name.encode() for name in headers))
        program = ctypes.c_void_p()
        create = self.library.nvrtcCreateProgram
        assert create(ctypes.byref(program), text.encode(), module.encode(), len(headers), texts, names) == 0
        options = (*options, f"--gpu-architecture={device}", "--ptxas-options=-v")
        values = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        failed = self.library.nvrtcCompileProgram(program, len(options), values)
        log = self.text(program, "ProgramLog")
        ptx = "" if failed else self.text(program, "PTX")
        self.library.nvrtcDestroyProgram(ctypes.byref(program))
        if failed:
            raise RuntimeError(log)
        # Functions that were not inlined stand before or after the kernels, and are nobody's.
        bodies = re.findall(r"\.entry (\w+)\((.*?)\n}", ptx, re.DOTALL)
        loads = {name: len(re.findall(r"\bld\.(?:[\w:]+\.)*v4\.\w32\b", body)) for name, body in bodies}
        pattern = r"entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores.*?Used (\d+) registers"
        found = re.findall(pattern, log, re.DOTALL)
        return [
            Kernel(name, int(registers), int(spilled), max(int(frame) - int(spilled), 0), loads[name])
            for name, frame, spilled, registers in found
        ]


class Clang:
    """A clang for AMD's devices, without HIP's headers."""

    def __init__(self):
        clang = shutil.which(os.environ.get("CLANG", "clang-19"))
        bitcode = glob.glob(os.environ.get("AMD_BITCODE", "/usr/lib/*/amdgcn/bitcode"))
        if not clang or not bitcode:
            raise FileNotFoundError("no clang-19" if not clang else "no ROCm device libraries")
        self.clang, self.bitcode = clang, pathlib.Path(bitcode[0])
        self.builtins = ROOT / "scripts/hip-builtins.h"
        version = subprocess.run([clang, "--version"], check=True, capture_output=True, text=True).stdout
        library = hashlib.sha256((self.bitcode / "ocml.bc").read_bytes()).hexdigest()
        self.identity = version + library + self.builtins.read_text()

    def compile(self, device, module, text, headers, options):
        wide = "on" if "#define WARP 64" in text else "off"
        libraries = ("ocml", "ockl", "oclc_daz_opt_off", "oclc_unsafe_math_off", "oclc_finite_only_off")
        libraries += ("oclc_correctly_rounded_sqrt_on", f"oclc_wavefrontsize64_{wide}")
        output = WORK / f"{module}_{device}.s"
        command = [self.clang, "-x", "hip", f"--offload-arch={device}", "--cuda-device-only", "-nogpuinc", "-nogpulib"]
        command += [*options, "-O3", "-Rpass-analysis=kernel-resource-usage"]
        command += ["-include", str(self.builtins), "-I", str(SOURCE)]
        for library in libraries:
            command += ["-Xclang", "-mlink-builtin-bitcode", "-Xclang", str(self.bitcode / f"{library}.bc")]
        command += ["-S", str(SOURCE / device / f"{module}.cu"), "-o", str(output)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(result.stderr)
        bodies = re.findall(r"^(\w+):(.*?)^\.Lfunc_end", output.read_text(), re.DOTALL | re.MULTILINE)
        loads = {name: len(re.findall(r"(?:global|flat)_load_(?:dwordx4|b128)\b", body)) for name, body in bodies}
        output.unlink()
        pattern = r"Function Name: (\w+).*?\bVGPRs: (\d+).*?ScratchSize \[bytes/lane\]: (\d+).*?VGPRs Spill: (\d+)"
        found = re.findall(pattern, result.stderr, re.DOTALL)
        return [
            Kernel(name, int(registers), int(spilled), max(int(frame) - 4 * int(spilled), 0), loads[name])
            for name, registers, frame, spilled in found
        ]


def results(compiler, device, module):
    """What the compiler says of a module's kernels: now, or when the same was compiled before."""
    text = (SOURCE / device / f"{module}.cu").read_text()
    options = (SOURCE / device / "options").read_text().split()
    headers = included(text, {})
    what = [compiler.identity, inspect.getsource(type(compiler)), device, options, text, sorted(headers.items())]
    kept = RESULTS / hashlib.sha256(json.dumps(what).encode()).hexdigest()
    if not kept.exists():
        found = compiler.compile(device, module, text, headers, options)
        unfinished = kept.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(found))
        unfinished.rename(kept)
    single = re.findall(r'#define FORMAT (\w+)\n#define ROWS 1\n#include "(\w+)\.cu"', text)
    single = {f"{file}_{format}_1" for format, file in single}
    tiled = re.findall(r'#define FORMAT (\w+)\n#define ROWS \n#include "(\w+_tiled(?:_mma)?|flash(?:_mma)?)\.cu"', text)
    tiled = {f"{file}_{format}" for format, file in tiled}
    found = (Kernel(*kernel[:5]) for kernel in json.loads(kept.read_text()))
    return [kernel._replace(single=kernel.name in single, tiled=kernel.name in tiled) for kernel in found]


def report(device, kernels, most):
    """Prints a line for a device, and what is wrong; whether nothing is."""
    registers = max((kernel.registers for kernel in kernels), default=0)
    single = [kernel for kernel in kernels if kernel.single]
    loads = sum(kernel.loads for kernel in kernels)
    of_single = f", {max(kernel.registers for kernel in single)} for single rows" if single else ""
    print(f"{device}: {len(kernels)} kernels, at most {registers} registers{of_single}, {loads} loads of 16 bytes", flush=True)
    spilling = [kernel for kernel in kernels if kernel.spilled > FEW]
    wrong = {
        "no load of 16 bytes": [kernel for kernel in single if kernel.loads == 0 and not NARROW.search(kernel.name)],
        f"more than {most} registers": [kernel for kernel in single if kernel.registers > most],
        "spill": [kernel for kernel in spilling if kernel.single],
        "variables in memory": [kernel for kernel in kernels if (kernel.single or kernel.tiled) and kernel.kept > FEW],
    }
    told = wrong | {"spill": spilling}
    for what, found in told.items():
        if found:
            print(f"  {what}: {', '.join(kernel.name for kernel in found)}")
    return not any(wrong.values())


def check(compiler, devices, everything):
    """Compiles for all devices and reports each; whether all is well."""

    def wanted(device):
        modules = sorted(path.stem for path in (SOURCE / device).glob("*.cu"))
        all_of_them = everything or device == devices[0]
        return [name for name in modules if all_of_them or any(f"{name}_".startswith(f"{main}_") for main in MAIN)]

    sound = True
    # Compilers leave Python's lock alone while they work.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        work = {
            device: [(module, pool.submit(results, compiler, device, module)) for module in wanted(device)]
            for device in devices
        }
        for device, modules in work.items():
            kernels = []
            for module, result in modules:
                try:
                    kernels += result.result()
                except RuntimeError as reason:
                    print(f"{device}: {module} does not compile: {reason}")
                    sound = False
            sound &= report(device, kernels, REGISTERS[devices])
    return sound


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every module for every device")
    everything = parser.parse_args().all
    shutil.rmtree(SOURCE, ignore_errors=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    command = ["cargo", "run", "--quiet", "--locked", "--example", "kernels", "--", str(SOURCE), *NVIDIA, *AMD]
    subprocess.run(command, check=True, cwd=ROOT)
    sound = True
    for name, make, devices in (("NVRTC", Nvrtc, NVIDIA), ("clang for AMD", Clang, AMD)):
        try:
            compiler = make()
        except (OSError, subprocess.CalledProcessError) as reason:
            print(f"skipped: {name}: {reason}")
            sound &= os.environ.get("CI") != "true"
            continue
        sound &= check(compiler, devices, everything)
    sys.exit(not sound)


if __name__ == "__main__":
    main()
