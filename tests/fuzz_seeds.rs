//! The claims of the fuzz targets hold for their seeds.

use std::fs;
use std::path::Path;

#[path = "../fuzz/src/lib.rs"]
pub mod claims;

fn holds_for_seeds(target: &str, claim: fn(&[u8]) -> bool) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let seeds = fs::read_dir(folder).unwrap().map(|seed| fs::read(seed.unwrap().path()).unwrap());
    let read = seeds.filter(|seed| claim(seed)).count();
    assert!(read > 0, "no seed of {target} gets past its parser");
}

#[test]
fn configs_that_are_read_are_valid() {
    holds_for_seeds("config", claims::config);
}

#[test]
fn gguf_files_that_open_have_the_bytes_of_their_weights() {
    holds_for_seeds("gguf", claims::gguf);
}

#[test]
fn pickles_that_are_read_describe_bytes_that_exist() {
    holds_for_seeds("pickle", claims::pickle);
}

#[test]
fn safetensors_files_that_open_have_the_bytes_of_their_weights() {
    holds_for_seeds("safetensors", claims::safetensors);
}

#[test]
fn sessions_that_are_restored_run_and_save_to_the_same_bytes() {
    holds_for_seeds("session", claims::session);
}

#[test]
fn tokenizers_that_are_read_write_any_text() {
    holds_for_seeds("tokenizer", claims::tokenizer);
}
