//! `config.json` of any content is refused, or gives a configuration that is valid and whose widths can be computed.
#![no_main]

use grok1::ModelConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(config) = ModelConfig::from_json(text) {
        let _ = (config.query_width(), config.kv_width());
        assert_eq!(config.clone().validate().ok(), Some(config));
    }
});
