//! Every function with every pointer it takes being NULL.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::c::{Function, Link, functions, root, run_c, scratch};

/// Every function of the header with arguments that succeed: `!` marks a pointer that must not be NULL, `?` one that may.
const CALLS: &str = "
    grok1_status_name(GROK1_OK)
    grok1_error_status(?some_error)
    grok1_error_message(?some_error)
    grok1_error_entry(?some_error)
    grok1_error_free(?some_error)
    grok1_version()
    grok1_version_number()
    grok1_abi_version()
    grok1_has(?\"unwind\")

    grok1_cancel_new(!&cancel, ?&error)
    grok1_cancel_set(?cancel)
    grok1_cancel_is_set(?cancel)
    grok1_cancel_clear(?cancel)
    grok1_cancel_free(?cancel)
    grok1_control_init(?&control, sizeof control)

    grok1_source_init(?&other_source, sizeof other_source)
    grok1_checkpoint_open(!model_path, ?tokenizer_path, !&checkpoint, ?&error)
    grok1_checkpoint_open_sources(!&source, 1, !&checkpoint, ?&error)
    grok1_checkpoint_synthetic(!spec, !&checkpoint, ?&error)
    grok1_checkpoint_load(!synthetic, ?&model_options, ?&control, !&other_model, ?&error)
    grok1_checkpoint_get_info(!synthetic, !&checkpoint_info, sizeof checkpoint_info, ?&error)
    grok1_checkpoint_get_tensor(!synthetic, 0, !&tensor, sizeof tensor, ?&error)
    grok1_checkpoint_get_config(!synthetic, !&config, sizeof config, ?&error)
    grok1_checkpoint_plan(!synthetic, ?&plan_options, !&plan, ?&error)
    grok1_checkpoint_free(?checkpoint)

    grok1_model_options_init(?&model_options, sizeof model_options)
    grok1_pool_init(?&pool, sizeof pool)
    grok1_model_load(!model_path, ?&model_options, ?&control, !&other_model, ?&error)
    grok1_model_get_info(!model, !&model_info, sizeof model_info, ?&error)
    grok1_model_get_config(!model, !&config, sizeof config, ?&error)
    grok1_model_get_checkpoint(!model, !&checkpoint, ?&error)
    grok1_model_get_tokenizer(!model, !&other_tokenizer, ?&error)
    grok1_model_trim(!model, ?&control, ?&error)
    grok1_model_free(?other_model)

    grok1_session_options_init(?&session_options, sizeof session_options)
    grok1_session_new(!model, ?&session_options, !&other_session, ?&error)
    grok1_session_feed(!session, !tokens, 2, ?&control, ?&error)
    grok1_session_push(!session, !tokens, 2, ?&error)
    grok1_session_push_text(!session, !\"text\", 4, ?&error)
    grok1_session_score(!session, !tokens, 2, !scores, ?&control, ?&error)
    grok1_session_logits(?session, ?&needed)
    grok1_session_tokens(!session, !many_tokens, 100, !&needed, ?&error)
    grok1_session_truncate(!session, 1, ?&error)
    grok1_session_fork(!session, !&other_session, ?&error)
    grok1_session_get_info(!session, !&session_info, sizeof session_info, ?&error)
    grok1_session_save(!session, ?sampler, !on_write, ?user, ?&control, ?&error)
    grok1_session_restore(!model, !on_read, ?user, ?&session_options, ?&control, !&other_session, ?&other_sampler, ?&error)
    grok1_session_free(?other_session)
    grok1_entry_init(?&entry, sizeof entry)
    grok1_run(!model, !&entry, 1, ?&control, ?&error)

    grok1_sampler_options_init(?&sampler_options, sizeof sampler_options)
    grok1_sampler_new(?&sampler_options, !&other_sampler, ?&error)
    grok1_sampler_clone(!sampler, !&other_sampler, ?&error)
    grok1_sampler_set_filter(!sampler, !on_filter, ?user, ?&error)
    grok1_sampler_sample(!sampler, !scores, 2, !tokens, 1, !&sampled, sizeof sampled, ?&error)
    grok1_sampler_distribution(!sampler, !scores, 2, !tokens, 1, !many_tokens, !probabilities, 100, !&needed, ?&error)
    grok1_log_probability(?scores, 2, 1)
    grok1_sampler_draws(!sampler, !&draws, ?&error)
    grok1_sampler_set_draws(!sampler, 1, ?&error)
    grok1_sampler_save(!sampler, !bytes, sizeof bytes, !&needed, ?&error)
    grok1_sampler_restore(!bytes, needed, !&other_sampler, ?&error)
    grok1_sampler_free(?other_sampler)

    grok1_generation_options_init(?&generation_options, sizeof generation_options)
    grok1_generation_new(?&generation_options, !&other_generation, ?&error)
    grok1_generation_accept(!generation, !session, !sampler, !&token, sizeof token, ?&error)
    grok1_generation_next(!generation, !session, !sampler, ?&control, !&token, sizeof token, ?&error)
    grok1_generation_run(!generation, !session, !sampler, !on_token, ?user, ?&control, ?&error)
    grok1_generation_get_info(!generation, !&generation_info, sizeof generation_info, ?&error)
    grok1_generation_free(?other_generation)

    grok1_tokenizer_open(!tokenizer_path, !&other_tokenizer, ?&error)
    grok1_tokenizer_encode(!tokenizer, !\"text\", 4, 0, !many_tokens, 100, !&needed, ?&error)
    grok1_tokenizer_decode(!tokenizer, !tokens, 2, !text, sizeof text, !&needed, ?&error)
    grok1_tokenizer_token_bytes(!tokenizer, 100, !text, sizeof text, !&needed, ?&error)
    grok1_tokenizer_piece(?tokenizer, 100)
    grok1_tokenizer_kind(?tokenizer, 100)
    grok1_tokenizer_find(?tokenizer, ?\"[EOS]\", 5)
    grok1_tokenizer_get_info(!tokenizer, !&tokenizer_info, sizeof tokenizer_info, ?&error)
    grok1_tokenizer_free(?other_tokenizer)
    grok1_text_stream_new(!tokenizer, 0, !&stop, 1, !&other_stream, ?&error)
    grok1_text_stream_push(!stream, 100, !&borrowed, !&needed, ?&error)
    grok1_text_stream_finish(!stream, !&borrowed, !&needed, ?&error)
    grok1_text_stream_stopped(?stream)
    grok1_text_stream_free(?other_stream)

    grok1_plan_options_init(?&plan_options, sizeof plan_options)
    grok1_plan_get_info(!some_plan, !&plan_info, sizeof plan_info, ?&error)
    grok1_plan_get_share(!some_plan, 0, !&plan_share, sizeof plan_share, ?&error)
    grok1_plan_get_place(!some_plan, 0, !&plan_place, sizeof plan_place, ?&error)
    grok1_plan_free(?plan)
    grok1_known_device(0, !&device, sizeof device, ?&error)

    grok1_conversion_options_init(?&no_options, sizeof no_options)
    grok1_recipe_name(0)
    grok1_conversion_new(!synthetic, !&conversion_options, !&other_conversion, ?&error)
    grok1_conversion_run(!conversion, !output_path(), ?&control, !&report, sizeof report, ?&error)
    grok1_conversion_file(?conversion, 0)
    grok1_conversion_verify(!conversion, !last_output, ?&control, !&verification, sizeof verification, ?&error)
    grok1_conversion_deviation(!conversion, 0, !&borrowed, !probabilities, ?&error)
    grok1_conversion_free(?other_conversion)

    grok1_set_log(?on_log, ?user, GROK1_LOG_INFO, ?&error)
";

/// What the calls name.
const BEFORE: &str = r##"
#include "grok1.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int32_t on_token(void *user, const grok1_token *token) { (void)user; (void)token; return GROK1_CONTINUE; }
static void on_log(void *user, int32_t level, const char *message, size_t len) { (void)user; (void)level; (void)message; (void)len; }
static void on_filter(void *user, const uint32_t *history, size_t n_history, float *logits, size_t n_logits) {
    (void)user; (void)history; (void)n_history; (void)logits; (void)n_logits;
}

static unsigned char saved[1 << 20];
static size_t n_saved, n_read;
static int32_t on_write(void *user, const void *data, size_t len) {
    (void)user;
    if (n_saved + len > sizeof saved) return GROK1_STOP;
    memcpy(saved + n_saved, data, len);
    n_saved += len;
    return GROK1_CONTINUE;
}
static int32_t on_read(void *user, void *data, size_t len, size_t *read) {
    (void)user;
    *read = len < n_saved - n_read ? len : n_saved - n_read;
    memcpy(data, saved + n_read, *read);
    n_read += *read;
    return GROK1_CONTINUE;
}
static int32_t on_read_at(void *user, uint64_t offset, void *data, size_t len) {
    FILE *file = user;
    return fseek(file, (int)offset, SEEK_SET) || fread(data, 1, len, file) != len ? GROK1_STOP : GROK1_CONTINUE;
}

static const char *folder;
static char last_output[4096];
static const char *output_path(void) {
    static int count;
    snprintf(last_output, sizeof last_output, "%s/%d.gguf", folder, count++);
    return last_output;
}

static const char *where = "the beginning";
static void fail(const char *why, grok1_error *error) {
    fprintf(stderr, "%s: %s: %s\n", where, why, grok1_error_message(error));
    exit(1);
}
#define OK(call) do { if ((call) != GROK1_OK) fail("failed", error); } while (0)

static const char *spec = "layers=1,width=64,heads=4,kv_heads=2,head_dim=16,experts=4,ffn=64,vocab=64,context=64,type=f32";
static grok1_error *error, *some_error;
static grok1_cancel *cancel;
static grok1_checkpoint *checkpoint, *synthetic;
static grok1_model *model, *other_model;
static grok1_session *session, *other_session;
static grok1_sampler *sampler, *other_sampler;
static grok1_generation *generation, *other_generation;
static grok1_tokenizer *tokenizer, *other_tokenizer;
static grok1_text_stream *stream, *other_stream;
static grok1_plan *plan, *some_plan;
static grok1_conversion *conversion, *other_conversion;

static grok1_control control;
static grok1_source source, other_source;
static grok1_pool pool;
static grok1_entry entry;
static grok1_model_options model_options;
static grok1_session_options session_options;
static grok1_sampler_options sampler_options;
static grok1_generation_options generation_options;
static grok1_plan_options plan_options;
static grok1_conversion_options conversion_options, no_options;
static grok1_checkpoint_info checkpoint_info;
static grok1_tensor tensor;
static grok1_config config;
static grok1_model_info model_info;
static grok1_session_info session_info;
static grok1_sampled sampled;
static grok1_generation_info generation_info;
static grok1_token token;
static grok1_tokenizer_info tokenizer_info;
static grok1_plan_info plan_info;
static grok1_plan_share plan_share;
static grok1_plan_place plan_place;
static grok1_device device;
static grok1_conversion_report report;
static grok1_verification verification;

static const uint32_t tokens[2] = {100, 200};
static uint32_t many_tokens[100];
static float scores[2];
static double probabilities[100];
static uint64_t draws;
static size_t needed;
static uint8_t bytes[1024];
static char text[64];
static const char *borrowed;
static const grok1_text stop = {"stop", 4};
static int user_value;
static void *user = &user_value;

/* Frees what a call may have given, and makes what the next one needs. */
static void reset(void) {
    grok1_error_free(error), error = NULL;
    grok1_cancel_free(cancel), cancel = NULL;
    grok1_checkpoint_free(checkpoint), checkpoint = NULL;
    grok1_model_free(other_model), other_model = NULL;
    grok1_session_free(other_session), other_session = NULL;
    grok1_sampler_free(other_sampler), other_sampler = NULL;
    grok1_generation_free(other_generation), other_generation = NULL;
    grok1_generation_free(generation), generation = NULL;
    grok1_tokenizer_free(other_tokenizer), other_tokenizer = NULL;
    grok1_text_stream_free(other_stream), other_stream = NULL;
    grok1_plan_free(plan), plan = NULL;
    grok1_conversion_free(other_conversion), other_conversion = NULL;
    grok1_control_init(&control, sizeof control);
    generation_options.max_tokens = 3;
    OK(grok1_generation_new(&generation_options, &generation, &error));
    OK(grok1_session_truncate(session, 0, &error));
    OK(grok1_session_feed(session, tokens, 2, NULL, &error));
    OK(grok1_sampler_save(sampler, bytes, sizeof bytes, &needed, &error));
    n_saved = n_read = 0;
    OK(grok1_session_save(session, NULL, on_write, NULL, NULL, &error));
    grok1_entry_init(&entry, sizeof entry);
    entry.session = session, entry.tokens = tokens, entry.n_tokens = 2;
}

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    const char *model_path = argv[1], *tokenizer_path = argv[2], *gguf_path = argv[3];
    folder = argv[4];
    if (grok1_model_load("no such model", NULL, NULL, &model, &some_error) != GROK1_ERR_FORMAT) return 3;
    grok1_model_options_init(&model_options, sizeof model_options);
    model_options.threads = 1;
    grok1_session_options_init(&session_options, sizeof session_options);
    grok1_sampler_options_init(&sampler_options, sizeof sampler_options);
    grok1_generation_options_init(&generation_options, sizeof generation_options);
    OK(grok1_model_load(model_path, &model_options, NULL, &model, &error));
    OK(grok1_model_get_tokenizer(model, &tokenizer, &error));
    OK(grok1_text_stream_new(tokenizer, 0, NULL, 0, &stream, &error));
    OK(grok1_session_new(model, NULL, &session, &error));
    OK(grok1_sampler_new(NULL, &sampler, &error));
    OK(grok1_checkpoint_synthetic(spec, &synthetic, &error));
    grok1_plan_options_init(&plan_options, sizeof plan_options);
    static const char *const devices[] = {"2xh100"};
    plan_options.devices = devices, plan_options.n_devices = 1;
    OK(grok1_checkpoint_plan(synthetic, &plan_options, &some_plan, &error));
    grok1_conversion_options_init(&conversion_options, sizeof conversion_options);
    conversion_options.recipe = "q8_0", conversion_options.threads = 1;
    OK(grok1_conversion_new(synthetic, &conversion_options, &conversion, &error));
    OK(grok1_conversion_run(conversion, gguf_path, NULL, &report, sizeof report, &error));
    grok1_source_init(&source, sizeof source);
    FILE *file = fopen(gguf_path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) return 4;
    source.name = "model.gguf", source.read_at = on_read_at, source.user = file, source.len = (uint64_t)ftell(file);
"##;

const AFTER: &str = r"
    reset();
    grok1_error_free(some_error);
    grok1_generation_free(generation);
    grok1_text_stream_free(stream);
    grok1_tokenizer_free(tokenizer);
    grok1_conversion_free(conversion);
    grok1_plan_free(some_plan);
    grok1_checkpoint_free(synthetic);
    grok1_sampler_free(sampler);
    grok1_session_free(session);
    grok1_model_free(model);
    fclose(file);
    return 0;
}
";

/// The arguments of each call, as the table has them.
fn calls() -> BTreeMap<&'static str, Vec<&'static str>> {
    let calls = CALLS.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| {
        let (name, arguments) = line.strip_suffix(')').unwrap().split_once('(').unwrap();
        (name, arguments.split(", ").filter(|argument| !argument.is_empty()).collect())
    });
    calls.collect()
}

#[test]
fn the_table_has_every_function_and_every_pointer() {
    let calls = calls();
    for Function { name, parameters, .. } in functions() {
        let arguments = calls.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not in the table"));
        assert_eq!(arguments.len(), parameters.len(), "{name}");
        for (argument, parameter) in arguments.iter().zip(&parameters) {
            assert_eq!(
                argument.starts_with(['!', '?']),
                Function::is_pointer(parameter),
                "{name}: {parameter}"
            );
        }
    }
    assert_eq!(calls.len(), functions().len());
}

#[test]
fn null_is_an_argument_error_or_fine_but_never_a_crash() {
    let calls = calls();
    let mut code = BEFORE.to_owned();
    // In the order of the table: the first calls make what later ones read.
    for line in CALLS.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let name = line.split('(').next().unwrap();
        let function = functions().into_iter().find(|function| function.name == name).unwrap();
        let arguments = &calls[name];
        let with = |null: Option<usize>| {
            let plain = arguments.iter().map(|argument| argument.trim_start_matches(['!', '?']));
            let given = plain
                .enumerate()
                .map(|(index, argument)| if null == Some(index) { "NULL" } else { argument });
            format!("{name}({})", given.collect::<Vec<_>>().join(", "))
        };
        let call = |code: &mut String, call: &str, expected: &str| {
            writeln!(code, "    reset(); where = {call:?};").unwrap();
            match function.result.as_str() {
                "grok1_status" if name != "grok1_error_status" => {
                    writeln!(code, "    if ({call} != {expected}) fail(\"not {expected}\", error);").unwrap();
                }
                "void" => writeln!(code, "    {call};").unwrap(),
                _ => writeln!(code, "    (void){call};").unwrap(),
            }
        };
        // What is freed by the call itself is given as NULL only.
        if !name.ends_with("_free") {
            call(&mut code, &with(None), "GROK1_OK");
        }
        for (index, argument) in arguments.iter().enumerate() {
            match argument.chars().next() {
                Some('!') => call(&mut code, &with(Some(index)), "GROK1_ERR_ARGUMENT"),
                Some('?') => call(&mut code, &with(Some(index)), "GROK1_OK"),
                _ => {}
            }
        }
    }
    code.push_str(AFTER);
    for link in [Link::Shared, Link::Static] {
        let folder = scratch("nulls").join(format!("out-{link:?}"));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let tiny = root().join("assets/tiny");
        let (tokenizer, gguf) = (tiny.join("tokenizer.model"), folder.join("synthetic.gguf"));
        let arguments = [tiny.as_os_str(), tokenizer.as_os_str(), gguf.as_os_str(), folder.as_os_str()];
        if run_c("nulls", &code, link, &arguments).is_none() {
            return;
        }
    }
}
