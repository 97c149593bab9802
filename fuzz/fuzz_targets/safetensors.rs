#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    grok1_fuzz::safetensors(bytes);
});
