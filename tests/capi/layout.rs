//! Where fields of public structs lie.

use std::fmt::Write;
use std::sync::OnceLock;

use grok1::capi::*;

use super::c::{Link, assert_golden, run_c, structs};

/// What a C compiler says: a struct and its size, then its fields with their offsets and sizes. `None` without one.
fn layout() -> Option<&'static str> {
    static LAYOUT: OnceLock<Option<String>> = OnceLock::new();
    LAYOUT.get_or_init(ask_the_compiler).as_deref()
}

fn ask_the_compiler() -> Option<String> {
    let mut code = String::from("#include \"grok1.h\"\n#include <stdio.h>\nint main(void) {\n");
    for (name, fields) in structs() {
        writeln!(code, "printf(\"{name} %zu\\n\", sizeof({name}));").unwrap();
        for field in fields {
            let value = format!("sizeof((({name} *)0)->{field})");
            writeln!(code, "printf(\"{name}.{field} %zu %zu\\n\", offsetof({name}, {field}), {value});")
                .unwrap();
        }
    }
    code.push_str("return 0;\n}\n");
    run_c("layout", &code, Link::Static, &[])
}

#[test]
#[cfg(target_pointer_width = "64")]
fn fields_lie_where_they_always_lay() {
    let Some(layout) = layout() else { return };
    assert_golden("layout.txt", layout);
}

#[test]
#[cfg(target_pointer_width = "64")]
fn structs_have_no_padding_that_a_new_field_could_fall_into() {
    let Some(layout) = layout() else { return };
    for line in layout.lines().filter(|line| !line.contains('.')) {
        let (name, size) = line.split_once(' ').unwrap();
        let fields = layout.lines().filter(|line| line.starts_with(&format!("{name}.")));
        let sizes = fields.map(|field| field.rsplit(' ').next().unwrap().parse::<usize>().unwrap());
        assert_eq!(sizes.sum::<usize>(), size.parse::<usize>().unwrap(), "{name}");
    }
}

#[test]
fn rust_and_c_agree_on_sizes() {
    let Some(layout) = layout() else { return };
    let rust = [
        ("grok1_alternative", size_of::<grok1_alternative>()),
        ("grok1_checkpoint_info", size_of::<grok1_checkpoint_info>()),
        ("grok1_config", size_of::<grok1_config>()),
        ("grok1_control", size_of::<grok1_control>()),
        ("grok1_conversion_options", size_of::<grok1_conversion_options>()),
        ("grok1_conversion_report", size_of::<grok1_conversion_report>()),
        ("grok1_device", size_of::<grok1_device>()),
        ("grok1_entry", size_of::<grok1_entry>()),
        ("grok1_generation_info", size_of::<grok1_generation_info>()),
        ("grok1_generation_options", size_of::<grok1_generation_options>()),
        ("grok1_logit_bias", size_of::<grok1_logit_bias>()),
        ("grok1_model_info", size_of::<grok1_model_info>()),
        ("grok1_model_options", size_of::<grok1_model_options>()),
        ("grok1_plan_info", size_of::<grok1_plan_info>()),
        ("grok1_plan_options", size_of::<grok1_plan_options>()),
        ("grok1_plan_place", size_of::<grok1_plan_place>()),
        ("grok1_plan_share", size_of::<grok1_plan_share>()),
        ("grok1_pool", size_of::<grok1_pool>()),
        ("grok1_sampled", size_of::<grok1_sampled>()),
        ("grok1_sampler_options", size_of::<grok1_sampler_options>()),
        ("grok1_session_info", size_of::<grok1_session_info>()),
        ("grok1_session_options", size_of::<grok1_session_options>()),
        ("grok1_source", size_of::<grok1_source>()),
        ("grok1_tensor", size_of::<grok1_tensor>()),
        ("grok1_text", size_of::<grok1_text>()),
        ("grok1_token", size_of::<grok1_token>()),
        ("grok1_tokenizer_info", size_of::<grok1_tokenizer_info>()),
        ("grok1_verification", size_of::<grok1_verification>()),
    ];
    assert_eq!(rust.len(), structs().len());
    for (name, size) in rust {
        assert!(layout.lines().any(|line| line == format!("{name} {size}")), "{name} {size}");
    }
}
