#!/usr/bin/env bash
# Checks and measures the GPU backend on real hardware that has neither a network nor Rust.
#
#     scripts/gpu-check.sh prepare        where the project is built, with or without a GPU: makes target/gpu-check and, to be carried,
#                                         target/gpu-check.tar.xz of less than 64 MiB. PROFILE=dev builds faster, to try the script
#     gpu-check/gpu-check.sh run STAGE…   where the GPU is, in what was carried: some stages, or all
#     gpu-check/gpu-check.sh summary      what was found so far, beside the aims
#
# Stages: conformance, goldens, sanitizer, kernels, decode, prefill, load, graphs, hip-shim. Each is made of steps. Results go to
# gpu-check-results, or what GROK1_RESULTS names: the output of each step, and how it ended. A run stops after LIMIT seconds, 540
# unless set; the same command then goes on with the steps that have not ended, and exits with 75 while there are any. --again repeats
# those that have. Where OUT is set, results are also put there, as one archive.
#
# `tar xf` unpacks it, or `python3 -m tarfile -e` where there is no xz. NVRTC is taken along where scripts/gpu-compile.py has put
# it, or NVRTC names its folder; otherwise the machine has to have one. On the machine that prepared it all, STANDIN=1 runs the
# stages on the stand-in driver with small shapes, to try the script.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

prepare() {
    cd "$here/.."
    local profile=${PROFILE:-release} pack=target/gpu-check features=cuda,hip,cli library path
    rm -rf "$pack" "$pack.tar.xz"
    mkdir -p "$pack"/{bin,hip,lib,project/assets,project/tests/fixtures,oracle/formats}
    local built=(cargo build --locked --message-format json --features "$features" --profile "$profile")
    {
        "${built[@]}" --bin grok1 --example gpu_bench
        cargo test --locked --message-format json --features "$features" --no-run --test gpu_stages --test gpu_runtime
    } | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | while read -r path; do
        # Without the hash that tests have in their names.
        cp "$path" "$pack/bin/$(basename "$path" | sed 's/-[0-9a-f]\{16\}$//')"
    done
    strip "$pack"/bin/*
    g++ -std=c++20 -O1 -shared -fPIC -fvisibility=hidden tests/gpu/standin/hip_on_cuda.cpp -o "$pack/hip/libamdhip64.so.7" -ldl
    cp scripts/gpu-check.sh "$pack/"
    cp -r assets/tiny "$pack/project/assets/"
    cp -r tests/fixtures/goldens "$pack/project/tests/fixtures/"
    for path in goldens.safetensors tiny-L1-Q4_K_M.gguf tiny-L1-IQ4_XS.gguf; do
        cp "${GROK1_ORACLE:-../shared/oracle}/formats/$path" "$pack/oracle/formats/" ||
            echo "no $path of the oracle: the test that needs it will be skipped"
    done
    chmod -R u+w "$pack"
    library=${NVRTC:-$(find target/gpu-compile -name 'libnvrtc.so.1?' -printf '%h\n' -quit 2>/dev/null || true)}
    if [[ $library ]]; then
        cp "$library"/libnvrtc.so.1? "$library"/libnvrtc-builtins.so.1?.? "$pack/lib/"
    else
        echo 'no NVRTC to take along: the machine has to have one'
    fi
    git rev-parse --short HEAD >"$pack/revision"
    tar -C target -c gpu-check | xz -T0 -6 >"$pack.tar.xz"
    du -sh "$pack"/{bin,lib,project,oracle} "$pack.tar.xz"
    (($(stat -c %s "$pack.tar.xz") < 64 << 20)) || { echo 'more than 64 MiB'; return 1; }
}

results=${GROK1_RESULTS:-$PWD/gpu-check-results}
limit=${LIMIT:-540}
again=
left=0

# step STAGE NAME COMMAND…: runs the command, unless it has ended before, until the time is up. Its output is STAGE.NAME.txt; in
# STAGE.NAME.status is its exit status, once it has ended.
step() {
    local name=$1.$2 status=0 remaining=$((limit - SECONDS)) started=$SECONDS
    local out=$results/$name.txt ended=$results/$name.status
    [[ -e $ended && ! $again ]] && return
    if ((remaining < 5)); then
        ((++left))
        return
    fi
    rm -f "$ended"
    printf '%s … ' "$name"
    timeout --kill-after=5 "$remaining" "${@:3}" >"$out" 2>&1 || status=$?
    if ((status == 124 || status == 137)); then
        ((++left))
        echo "out of time after $((SECONDS - started)) s"
    else
        echo "$status" >"$ended"
        if ((status == 0)); then echo "$((SECONDS - started)) s"; else echo "FAILED ($status), see $out"; fi
    fi
}

# tests STAGE RUNTIME PROGRAM PATTERN…: a step for each test whose name matches.
tests() {
    local stage=$1 runtime=$2 program=$3 test pattern
    for pattern in "${@:4}"; do
        for test in $("$here/bin/$program" --list 2>/dev/null | sed -n 's/: test$//p' | grep -E "$pattern"); do
            step "$stage" "$program.${test//::/.}" env GROK1_GPU="$runtime" \
                "$here/bin/$program" --exact "$test" --nocapture --test-threads 1
        done
    done
}

# bench STAGE NAME DEVICE SHAPE OPTION…: a step of `grok1 bench` with random weights.
bench() {
    step "$1" "$2" "$here/bin/grok1" bench --synthetic "$4" --device "$3" --json "${@:5}"
}

# Where the driver's compiler is, and what the tests are told of where they are.
environment() {
    mkdir -p "$results/scratch"
    export CARGO_MANIFEST_DIR=$here/project CARGO_TARGET_TMPDIR=$results/scratch GROK1_ORACLE=$here/oracle
    export XDG_CACHE_HOME=$results/cache
    if [[ ${STANDIN:-} ]]; then
        # This test makes the stand-ins; what it finds does not matter.
        "$here/bin/gpu_runtime" devices::a_device_says_what_it_is >"$results/stand-ins.txt" 2>&1 || true
        local made=("$results"/scratch/stand-ins-*/)
        export STANDIN_SHIM=${made[0]}shim
        driver=${made[0]}cuda:${made[0]}nvrtc:${made[0]}blas
    else
        driver=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}:/usr/local/cuda/lib64
    fi
    export LD_LIBRARY_PATH=$driver
}

# Layers of so many bytes that fit into four fifths of the free memory of the first device, up to 64.
layers() {
    local free
    free=$("$here/bin/grok1" devices --json 2>/dev/null | grep -o '"cuda":.*' | grep -o '"free_bytes":[0-9]*' | head -1 | cut -d: -f2 || true)
    awk -v free="${free:-0}" -v layer="$1" 'BEGIN { n = int(0.8 * free / layer); print n < 1 ? 1 : n > 64 ? 64 : n }'
}

stage() {
    local name=$1 type small=
    # Shape, types of the kernels' benchmark, tokens of a prompt, and tokens decoded.
    local shape=grok1 types=(i8 q8_0 q6_k q5_k q4_k q4_0 iq4_xs q3_k iq3_xxs) prompt=4096 tokens=64 runs=3
    local file_layers=4
    if [[ ${STANDIN:-} ]]; then
        small=width=512,heads=4,kv_heads=2,head_dim=64,experts=8,ffn=512
        shape=$small types=(q4_k) prompt=20 tokens=3 runs=1 file_layers=1
    fi
    # The rest of a description that begins with layers and type.
    local rest=${small:+,$small,vocab=512}
    local full=64 many
    [[ $small ]] && full=2
    case $name in
        conformance)
            tests "$name" cuda gpu_stages "^conformance::${small:+caps}" "^${small:+no}(passes|sessions|loading|offload)::"
            tests "$name" cuda gpu_runtime '^launches::' "^${small:+no}(memory|compiling|blas)::"
            ;;
        goldens) tests "$name" cuda gpu_stages '^goldens::' ;;
        sanitizer)
            local sanitizer tool
            sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -1 || true)
            if [[ ! $sanitizer || $small ]]; then
                echo "$name … skipped: no compute-sanitizer"
                return
            fi
            for tool in memcheck racecheck synccheck; do
                for type in i8 q4_k iq3_xxs; do
                    step "$name" "$tool.$type" "$sanitizer" --tool "$tool" --error-exitcode 9 "$here/bin/grok1" bench \
                        --synthetic "layers=1,width=512,heads=4,kv_heads=2,head_dim=128,experts=8,ffn=1024,vocab=512,type=$type" \
                        --device cuda:0 --prompt-tokens 200 --tokens 2 --runs 1 --json
                done
            done
            ;;
        kernels) for type in "${types[@]}"; do step "$name" "$type" "$here/bin/gpu_bench" cuda:0 "$shape" "$type"; done ;;
        decode | graphs)
            local more=(--prompt-tokens 16 --tokens "$tokens" --runs "$runs")
            [[ $name == graphs ]] && more+=(--no-graphs)
            many=$(layers 5000000000)
            [[ $small ]] && many=$full
            bench "$name" i8 cuda:0 "layers=$many,type=i8$rest" "${more[@]}"
            for type in iq3_xxs q3_k; do bench "$name" "$type" cuda:0 "layers=$full,type=$type$rest" "${more[@]}"; done
            ;;
        prefill)
            many=$((full / 4 > 1 ? full / 4 : 1))
            for type in i8 q4_k iq3_xxs; do
                bench "$name" "$type" cuda:0 "layers=$many,type=$type$rest" --prompt-tokens "$prompt" --batch-rows "$prompt" \
                    --tokens 1 --runs 2
            done
            ;;
        load)
            local file=$results/scratch/load.gguf
            step "$name" file "$here/bin/grok1" convert --synthetic "layers=$file_layers,type=q8_0$rest" "$file" --type q8_0
            # The second time, it comes from the page cache.
            for type in first second; do
                step "$name" "$type" "$here/bin/grok1" bench "$file" --device cuda:0 --prompt-tokens 1 --tokens 1 --runs 1 --json
            done
            ;;
        hip-shim)
            export LD_LIBRARY_PATH=$here/hip:$driver
            tests "$name" hip gpu_stages "^goldens::" '^passes::'
            bench "$name" bench hip:0 "layers=2,type=q4_k$rest" --prompt-tokens 16 --tokens "$tokens" --runs 1
            export LD_LIBRARY_PATH=$driver
            ;;
        *)
            echo "no stage $name"
            return 2
            ;;
    esac
}

# The number of a key in a line of JSON, the first after a text if one is given; nothing if there is none.
number='function number(key, after,   rest) {
    rest = after ? substr($0, index($0, after)) : $0
    return match(rest, "\"" key "\":[-0-9.e+]+") ? substr(rest, RSTART + length(key) + 3, RLENGTH - length(key) - 3) + 0 : ""
}
function decode(key) { return number(key, "\"phase\":\"decode\"") }
function prefill(key) { return number(key, "\"phase\":\"prefill\"") }'

summary() {
    local status passed=0 failed=() type aim
    for status in "$results"/*.status; do
        [[ -e $status ]] || continue
        if [[ $(<"$status") == 0 ]]; then ((++passed)); else failed+=("$(basename "$status" .status)"); fi
    done
    printf 'revision %s: %d steps went well, %d did not%s\n' "$(cat "$here/revision" 2>/dev/null)" "$passed" "${#failed[@]}" \
        "${failed:+: ${failed[*]}}"
    printf '\nShare of the measured copy bandwidth, one token, the better of scalar and matrix instructions\n'
    printf '%-10s %8s %8s %8s %8s %6s\n' type gate_up down qkv output aim
    for type in i8:85 q8_0:85 q4_0:85 q4_k:85 q5_k: q6_k: q3_k:75 iq4_xs:75 iq3_xxs:70; do
        aim=${type#*:} type=${type%:*}
        [[ -e $results/kernels.$type.txt ]] || continue
        awk -v type="$type" -v aim="$aim" "$number"'
            number("tokens") == 1 { for (kernel in names) if (index($0, "\"" kernel "_") && number("share") > best[kernel]) best[kernel] = number("share") }
            BEGIN { names["gate_up"]; names["expert_linear"]; names["qkv"]; names["linear"] }
            END {
                printf "%-10s %7.1f%% %7.1f%% %7.1f%% %7.1f%% %6s\n", type, 100 * best["gate_up"], 100 * best["expert_linear"],
                    100 * best["qkv"], 100 * best["linear"], aim
            }' "$results/kernels.$type.txt"
    done
    printf '\nTokens per second, one at a time (aim: 80 for 64 layers of iq3_xxs and q3_k), and share of the copy bandwidth\n'
    for type in i8 iq3_xxs q3_k; do
        for status in decode graphs; do
            [[ -e $results/$status.$type.status ]] || continue
            awk -v type="$type" -v how="$([[ $status == decode ]] && echo graphs || echo 'kernel by kernel')" "$number"'
                decode("median") { printf "%-10s %-18s %8.2f tok/s %6.1f%%\n", type, how, decode("median"), 100 * decode("bandwidth_share") }
            ' "$results/$status.$type.txt"
        done
    done
    printf '\nPrefill (aim: 50 %% of the matrix rate)\n'
    local rate
    rate=$({ cat "$results"/kernels.*.txt 2>/dev/null || true; } | awk "$number"'number("matrix_flops") > best { best = number("matrix_flops") } END { print best + 0 }')
    for type in i8 q4_k iq3_xxs; do
        [[ -e $results/prefill.$type.status ]] || continue
        awk -v type="$type" -v rate="$rate" "$number"'prefill("flops") {
            flops = prefill("flops")
            share = rate ? sprintf("%.1f%% of %.1f", 100 * flops / rate, rate / 1e12) : "matrix rate not measured"
            printf "%-10s %10.1f tok/s %10.3f TFLOP/s, %s\n", type, prefill("median"), flops / 1e12, share
        }' "$results/prefill.$type.txt"
    done
    printf '\nLoading (aim: 80 %% of the link from the page cache)\n'
    local link
    link=$({ cat "$results"/kernels.*.txt 2>/dev/null || true; } | awk "$number"'number("link_bandwidth") > best { best = number("link_bandwidth") } END { print best + 0 }')
    for type in first second; do
        [[ -e $results/load.$type.status ]] || continue
        awk -v type="$type" -v link="$link" "$number"'number("load") {
            printf "%-10s %8.2f GB/s of %.2f\n", type, number("load") / 1e9, link / 1e9
        }' "$results/load.$type.txt"
    done
}

run() {
    local stages=() argument
    for argument in "$@"; do
        case $argument in
            --again) again=1 ;;
            all) stages+=(conformance goldens sanitizer kernels decode prefill load graphs hip-shim) ;;
            *) stages+=("$argument") ;;
        esac
    done
    environment
    for argument in "${stages[@]}"; do stage "$argument"; done
    summary | tee "$results/summary.txt"
    if [[ ${OUT:-} ]]; then
        tar -C "$results" --exclude ./scratch --exclude ./cache -cf - . | gzip >"$OUT/gpu-check-results.tar.gz"
        cp "$results/summary.txt" "$OUT/"
    fi
    if ((left > 0)); then
        echo "$left steps are left: the same command goes on with them"
        exit 75
    fi
}

case ${1:-} in
    prepare | summary) "$1" ;;
    run) run "${@:2}" ;;
    *)
        sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
        exit 2
        ;;
esac
