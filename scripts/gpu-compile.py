#!/usr/bin/env python3
"""Compiles the kernels of GPUs with the vendors' compilers, for devices that need not be there.

    scripts/gpu-compile.py [--all]

For NVIDIA by NVRTC, which the package nvidia-cuda-nvrtc brings and this script puts into target/gpu-compile; for AMD by `clang-19`, or
what CLANG names, with ROCm's device libraries in AMD_BITCODE or where Debian's packages clang-19 and rocm-device-libs put them. A
compiler that cannot be had is skipped, and that is said.

The first device of each kind gets every format of weights, the others those that matter most; with --all every device gets all. Prints
for each device the largest number of registers, which kernels spill more of them than a few, and how many loads of 16 bytes there
are. Exits with 1 if something does not compile or a kernel for single rows, whose speed is that of decoding, spills.
"""

import argparse
import concurrent.futures
import ctypes
import glob
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORK = ROOT / "target" / "gpu-compile"
SOURCE = WORK / "source"
NVRTC = "nvidia-cuda-nvrtc==13.0.88"

NVIDIA = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_90a", "sm_100", "sm_120")
# Without the matrix instructions of modules whose names begin with `mma`, as are all of AMD's.
NO_MMA = ("sm_75",)
# Lanes of a warp beside the name.
AMD = {"gfx906": 64, "gfx90a": 64, "gfx942": 64, "gfx1100": 32}
# Modules that every device gets.
MAIN = ("rest", "mma", "mma_q4_k_packed", "mma_i8_in_out_packed", "bf16", "i8_in_out", "q4_k", "iq3_xxs")
# Bytes or registers. NVIDIA's assembler spills that much around loops, lest one block less fit on a processor.
FEW = 16


class Kernel:
    """What a compiler says of one."""

    def __init__(self, name, registers, spilled):
        self.name, self.registers, self.spilled = name, int(registers), int(spilled)


class Nvrtc:
    """NVRTC in this process."""

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

    def compile(self, device, module):
        """Kernels and the number of 16-byte loads."""
        headers = [path for path in SOURCE.iterdir() if not path.name.startswith("module_")]
        texts = (ctypes.c_char_p * len(headers))(*(path.read_bytes() for path in headers))
        names = (ctypes.c_char_p * len(headers))(*(path.name.encode() for path in headers))
        source = (SOURCE / f"module_{module}_32.cu").read_bytes()
        program = ctypes.c_void_p()
        create = self.library.nvrtcCreateProgram
        assert create(ctypes.byref(program), source, module.encode(), len(headers), texts, names) == 0
        options = ("-std=c++17", "--fmad=false", f"--gpu-architecture={device}", "--ptxas-options=-v")
        values = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        failed = self.library.nvrtcCompileProgram(program, len(options), values)
        log = self.text(program, "ProgramLog")
        loads = 0 if failed else len(re.findall(r"\bld\.\S*v4", self.text(program, "PTX")))
        self.library.nvrtcDestroyProgram(ctypes.byref(program))
        if failed:
            raise RuntimeError(log)
        found = re.findall(r"entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers", log, re.DOTALL)
        return [Kernel(name, registers, spilled) for name, spilled, registers in found], loads


class Clang:
    """A clang for AMD's devices, without HIP's headers."""

    def __init__(self):
        clang = shutil.which(os.environ.get("CLANG", "clang-19"))
        bitcode = glob.glob(os.environ.get("AMD_BITCODE", "/usr/lib/*/amdgcn/bitcode"))
        if not clang or not bitcode:
            raise FileNotFoundError("no clang-19" if not clang else "no ROCm device libraries")
        self.clang, self.bitcode = clang, pathlib.Path(bitcode[0])

    def compile(self, device, module):
        warp = AMD[device]
        wide = "on" if warp == 64 else "off"
        libraries = ("ocml", "ockl", "oclc_daz_opt_off", "oclc_unsafe_math_off", "oclc_finite_only_off")
        libraries += ("oclc_correctly_rounded_sqrt_on", f"oclc_wavefrontsize64_{wide}")
        output = WORK / f"{module}_{device}.s"
        command = [self.clang, "-x", "hip", f"--offload-arch={device}", "--cuda-device-only", "-nogpuinc", "-nogpulib"]
        command += ["-std=c++17", "-O3", "-ffp-contract=off", "-Rpass-analysis=kernel-resource-usage"]
        command += ["-include", str(ROOT / "scripts/hip-builtins.h"), "-I", str(SOURCE)]
        for library in libraries:
            command += ["-Xclang", "-mlink-builtin-bitcode", "-Xclang", str(self.bitcode / f"{library}.bc")]
        command += ["-S", str(SOURCE / f"module_{module}_{warp}.cu"), "-o", str(output)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(result.stderr)
        found = re.findall(
            r"Function Name: (\w+).*?\bVGPRs: (\d+).*?VGPRs Spill: (\d+)", result.stderr, re.DOTALL
        )
        loads = len(re.findall(r"load_(?:dwordx4|b128)\b", output.read_text()))
        output.unlink()
        return [Kernel(*kernel) for kernel in found], loads


def check(compiler, devices, everything):
    """Compiles for all devices and prints a line for each; whether all is well."""
    modules = sorted(path.name[len("module_") : -len("_32.cu")] for path in SOURCE.glob("module_*_32.cu"))
    sound = True
    for index, device in enumerate(devices):
        wanted = modules if everything or index == 0 else MAIN
        if device in NO_MMA or device in AMD:
            wanted = [module for module in wanted if not module.startswith("mma")]
        # Compilers leave Python's lock alone while they work.
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            results = list(pool.map(lambda module: compiler.compile(device, module), wanted))
        kernels = [kernel for found, _ in results for kernel in found]
        spilling = [kernel.name for kernel in kernels if kernel.spilled > FEW]
        registers = max(kernel.registers for kernel in kernels)
        loads = sum(loads for _, loads in results)
        print(f"{device}: {len(kernels)} kernels, at most {registers} registers, {loads} loads of 16 bytes", flush=True)
        if spilling:
            print(f"  spill: {', '.join(spilling)}")
        sound &= not any(name.endswith("_1") for name in spilling)
    return sound


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="every format for every device")
    everything = parser.parse_args().all
    shutil.rmtree(SOURCE, ignore_errors=True)
    command = ["cargo", "run", "--quiet", "--locked", "--example", "kernels", "--", str(SOURCE)]
    subprocess.run(command, check=True, cwd=ROOT)
    sound = True
    for name, make, devices in (("NVRTC", Nvrtc, NVIDIA), ("clang for AMD", Clang, AMD)):
        try:
            compiler = make()
        except (OSError, subprocess.CalledProcessError) as reason:
            print(f"skipped: {name}: {reason}")
            continue
        sound &= check(compiler, devices, everything)
    sys.exit(not sound)


if __name__ == "__main__":
    main()
