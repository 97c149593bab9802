/*
 * Calls every function of grok1.h once, with all kinds of callbacks: every MODEL TOKENIZER FOLDER
 *
 * Whether it is right is other tests' business; here a wrong answer would only mean that something was not exercised. Prints greedy text.
 */

#include <fcntl.h>
#include <grok1.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static grok1_error *error;

static void fail(int line, const char *what)
{
    fprintf(stderr, "line %d: %s: %s\n", line, what, grok1_error_message(error));
    exit(1);
}

#define CHECK(condition) ((condition) ? (void)0 : fail(__LINE__, #condition))
#define OK(call) CHECK((call) == GROK1_OK)

/* Fails as it should, with an error that says so. */
#define FAILS(expected, call)                                                                                                   \
    do {                                                                                                                        \
        CHECK((call) == (expected));                                                                                            \
        CHECK(grok1_error_status(error) == (expected));                                                                         \
        CHECK(strlen(grok1_error_message(error)) > 0);                                                                          \
        grok1_error_free(error);                                                                                                \
        error = NULL;                                                                                                           \
    } while (0)

/* ---- Callbacks; each counts that it came ---- */

static int32_t on_progress(void *user, int32_t task, uint64_t done, uint64_t total)
{
    CHECK(task >= GROK1_TASK_LOAD && done <= total);
    ++*(int *)user;
    return GROK1_CONTINUE;
}

static int32_t on_row(void *user, size_t row, const float *values, size_t count)
{
    CHECK(row == (size_t)*(int *)user && count > 0 && !isnan(values[count - 1]));
    ++*(int *)user;
    return GROK1_CONTINUE;
}

static void no_first_token(void *user, const uint32_t *history, size_t n_history, float *logits, size_t n_logits)
{
    CHECK(n_logits > 0 && (n_history == 0 || history != NULL));
    logits[0] = -INFINITY;
    ++*(int *)user;
}

static int32_t on_token(void *user, const grok1_token *token)
{
    CHECK(token->struct_size == sizeof *token);
    fwrite(token->text, 1, token->text_len, stdout);
    ++*(int *)user;
    return GROK1_CONTINUE;
}

static void on_log(void *user, int32_t level, const char *message, size_t len)
{
    CHECK(user != NULL && level >= GROK1_LOG_ERROR && message[len > 0 ? len - 1 : 0] != '\n');
}

static void one_after_the_other(void *user, size_t parts, grok1_part_fn part, void *context)
{
    CHECK(user != NULL);
    for (size_t i = 0; i < parts; i++)
        part(context, i);
}

/* A saved session in memory. */
struct saved {
    char *data;
    size_t len, capacity, taken;
};

static int32_t on_write(void *user, const void *data, size_t len)
{
    struct saved *saved = user;
    if (saved->capacity < saved->len + len) {
        saved->capacity = 2 * (saved->len + len);
        saved->data = realloc(saved->data, saved->capacity);
        CHECK(saved->data != NULL);
    }
    memcpy(saved->data + saved->len, data, len);
    saved->len += len;
    return GROK1_CONTINUE;
}

static int32_t on_read(void *user, void *data, size_t len, size_t *read)
{
    struct saved *saved = user;
    *read = len < saved->len - saved->taken ? len : saved->len - saved->taken;
    memcpy(data, saved->data + saved->taken, *read);
    saved->taken += *read;
    return GROK1_CONTINUE;
}

/* A file that is read by a callback. */
static int32_t read_file(void *user, uint64_t offset, void *data, size_t len)
{
    return pread(fileno((FILE *)user), data, len, (off_t)offset) == (ssize_t)len ? GROK1_CONTINUE : GROK1_STOP;
}

static void close_file(void *user) { fclose(user); }

/* ---- By subject ---- */

static void versions(void)
{
    CHECK(strcmp(grok1_version(), GROK1_VERSION_STRING) == 0);
    CHECK(grok1_version_number() == GROK1_VERSION_NUMBER);
    CHECK(grok1_abi_version() == GROK1_ABI_VERSION);
    CHECK(grok1_has("unwind") && !grok1_has("nothing of that name"));
    CHECK(strcmp(grok1_status_name(GROK1_OK), "ok") == 0);
    CHECK(grok1_error_entry(NULL) == GROK1_NO_ENTRY);
    const float even[2] = {0, 0};
    CHECK(fabsf(grok1_log_probability(even, 2, 1) - logf(0.5f)) < 1e-6f);
}

static void tokenizers(const char *path)
{
    grok1_tokenizer *tokenizer = NULL;
    grok1_tokenizer_info info;
    OK(grok1_tokenizer_open(path, &tokenizer, &error));
    OK(grok1_tokenizer_get_info(tokenizer, &info, sizeof info, &error));

    const char text[] = "The king\0and his word";
    size_t count = 0, len = 0;
    OK(grok1_tokenizer_encode(tokenizer, text, sizeof text - 1, 0, NULL, 0, &count, &error));
    uint32_t *tokens = malloc(count * sizeof *tokens);
    FAILS(GROK1_ERR_BUFFER, grok1_tokenizer_encode(tokenizer, text, sizeof text - 1, 0, tokens, 1, &count, &error));
    OK(grok1_tokenizer_encode(tokenizer, text, sizeof text - 1, 0, tokens, count, &count, &error));
    OK(grok1_tokenizer_decode(tokenizer, tokens, count, NULL, 0, &len, &error));
    char *decoded = malloc(len);
    OK(grok1_tokenizer_decode(tokenizer, tokens, count, decoded, len, &len, &error));
    CHECK(len == sizeof text - 1 && memcmp(decoded, text, len) == 0);
    FAILS(GROK1_ERR_UTF8, grok1_tokenizer_encode(tokenizer, "\xff", 1, 0, NULL, 0, &len, &error));

    char bytes[64];
    OK(grok1_tokenizer_token_bytes(tokenizer, tokens[0], bytes, sizeof bytes, &len, &error));
    const char *piece = grok1_tokenizer_piece(tokenizer, tokens[0]);
    CHECK(grok1_tokenizer_find(tokenizer, piece, strlen(piece)) == tokens[0]);
    CHECK(grok1_tokenizer_kind(tokenizer, tokens[0]) == GROK1_TOKEN_NORMAL);
    CHECK(grok1_tokenizer_piece(tokenizer, GROK1_NO_TOKEN) == NULL);

    const grok1_text stop = {"king", 4};
    grok1_text_stream *stream = NULL;
    const char *made = NULL;
    OK(grok1_text_stream_new(tokenizer, 0, &stop, 1, &stream, &error));
    grok1_tokenizer_free(tokenizer); /* the stream keeps it */
    CHECK(grok1_text_stream_stopped(stream) == GROK1_NO_STOP);
    size_t written = 0;
    for (size_t i = 0; i < count; i++, written += len)
        OK(grok1_text_stream_push(stream, tokens[i], &made, &len, &error));
    OK(grok1_text_stream_finish(stream, &made, &len, &error));
    CHECK(written + len == strlen("The ") && grok1_text_stream_stopped(stream) == 0);
    grok1_text_stream_free(stream);
    free(decoded);
    free(tokens);
}

static void checkpoints(const char *path, const char *folder)
{
    grok1_checkpoint *checkpoint = NULL;
    grok1_checkpoint_info info;
    grok1_tensor tensor;
    grok1_config config;
    FAILS(GROK1_ERR_FORMAT, grok1_checkpoint_open("/nothing/here", NULL, &checkpoint, &error));
    CHECK(checkpoint == NULL);
    OK(grok1_checkpoint_open(path, NULL, &checkpoint, &error));
    OK(grok1_checkpoint_get_info(checkpoint, &info, sizeof info, &error));
    OK(grok1_checkpoint_get_tensor(checkpoint, info.tensors - 1, &tensor, sizeof tensor, &error));
    CHECK(tensor.n_shape > 0 && strlen(tensor.name) > 0);
    FAILS(GROK1_ERR_ARGUMENT, grok1_checkpoint_get_tensor(checkpoint, info.tensors, &tensor, sizeof tensor, &error));
    OK(grok1_checkpoint_get_config(checkpoint, &config, sizeof config, &error));

    /* A plan */
    grok1_plan *plan = NULL;
    grok1_plan_options planning;
    grok1_plan_info planned;
    grok1_plan_share share;
    grok1_plan_place place;
    grok1_device device;
    const char *devices[] = {"box:8GB:100GB/s"};
    OK(grok1_known_device(0, &device, sizeof device, &error));
    grok1_plan_options_init(&planning, sizeof planning);
    planning.devices = devices;
    planning.n_devices = 1;
    planning.host = device.name;
    OK(grok1_checkpoint_plan(checkpoint, &planning, &plan, &error));
    OK(grok1_plan_get_info(plan, &planned, sizeof planned, &error));
    OK(grok1_plan_get_share(plan, planned.shares - 1, &share, sizeof share, &error));
    OK(grok1_plan_get_place(plan, 0, &place, sizeof place, &error));
    CHECK(planned.fits && strcmp(place.name, "box") == 0);
    grok1_plan_free(plan);

    /* A conversion, on threads of the host's */
    grok1_conversion *conversion = NULL;
    grok1_conversion_options converting;
    grok1_conversion_report report;
    grok1_verification verified;
    grok1_control control;
    grok1_pool pool;
    int calls = 0;
    grok1_control_init(&control, sizeof control);
    control.progress = on_progress;
    control.progress_user = &calls;
    grok1_pool_init(&pool, sizeof pool);
    pool.width = 2;
    pool.run = one_after_the_other;
    pool.user = &pool;
    grok1_conversion_options_init(&converting, sizeof converting);
    converting.recipe = grok1_recipe_name(0);
    converting.pool = &pool;
    char gguf[1024];
    snprintf(gguf, sizeof gguf, "%s/tiny-%ld.gguf", folder, (long)getpid());
    OK(grok1_conversion_new(checkpoint, &converting, &conversion, &error));
    grok1_checkpoint_free(checkpoint); /* the conversion keeps it */
    OK(grok1_conversion_run(conversion, gguf, &control, &report, sizeof report, &error));
    CHECK(calls > 0 && report.files == 1 && strcmp(grok1_conversion_file(conversion, 0), gguf) == 0);
    OK(grok1_conversion_verify(conversion, gguf, NULL, &verified, sizeof verified, &error));
    const char *dtype = NULL;
    double deviation = -1;
    OK(grok1_conversion_deviation(conversion, verified.types - 1, &dtype, &deviation, &error));
    CHECK(strlen(dtype) > 0 && deviation >= 0);
    grok1_conversion_free(conversion);

    /* What was written, once by a descriptor and once by a callback */
    grok1_source source;
    for (int by_callback = 0; by_callback < 2; by_callback++) {
        FILE *file = fopen(gguf, "rb");
        CHECK(file != NULL);
        grok1_source_init(&source, sizeof source);
        source.name = "tiny.gguf";
        if (by_callback) {
            fseek(file, 0, SEEK_END);
            source.len = (uint64_t)ftell(file);
            source.read_at = read_file;
            source.release = close_file;
            source.user = file;
        } else {
            source.fd = fileno(file);
        }
        OK(grok1_checkpoint_open_sources(&source, 1, &checkpoint, &error));
        if (!by_callback)
            fclose(file);
        grok1_checkpoint_free(checkpoint);
    }
    remove(gguf);

    /* Random weights, on threads of the host's */
    grok1_model *model = NULL;
    grok1_model_options options;
    grok1_model_options_init(&options, sizeof options);
    options.pool = &pool;
    OK(grok1_checkpoint_synthetic("layers=1,width=64,heads=2,kv_heads=1,head_dim=32,experts=2,selected=1,ffn=64,vocab=100,context=16",
                                  &checkpoint, &error));
    OK(grok1_checkpoint_load(checkpoint, &options, &control, &model, &error));
    grok1_checkpoint_free(checkpoint);
    grok1_session *session = NULL;
    const uint32_t token = 5;
    OK(grok1_session_new(model, NULL, &session, &error));
    grok1_model_free(model); /* the session keeps it */
    OK(grok1_session_feed(session, &token, 1, &control, &error));
    grok1_session_free(session);
}

static void sampling(const grok1_session *session)
{
    size_t n_logits = 0, needed = 0;
    const float *logits = grok1_session_logits(session, &n_logits);
    CHECK(logits != NULL);

    grok1_sampler_options options;
    grok1_sampler_options_init(&options, sizeof options);
    const grok1_logit_bias bias = {1, -INFINITY};
    const uint32_t allowed[] = {0, 1, 2, 3, 4, 5, 6, 7, 8};
    options.logit_bias = &bias;
    options.n_logit_bias = 1;
    options.allowed_tokens = allowed;
    options.n_allowed_tokens = 9;
    options.temperature = 2;
    options.top_k = 5;
    options.top_p = 0.99f;
    options.min_p = 0.0001f;
    options.repetition_penalty = 1.1f;
    options.presence_penalty = 0.1f;
    options.frequency_penalty = 0.1f;
    options.penalty_window = 3;
    options.alternatives = 2;
    options.seed = 7;

    grok1_sampler *sampler = NULL, *clone = NULL, *restored = NULL;
    grok1_sampled first, second;
    int calls = 0;
    OK(grok1_sampler_new(&options, &sampler, &error));
    OK(grok1_sampler_set_filter(sampler, no_first_token, &calls, &error));
    OK(grok1_sampler_clone(sampler, &clone, &error));
    OK(grok1_sampler_sample(sampler, logits, n_logits, allowed, 2, &first, sizeof first, &error));
    OK(grok1_sampler_sample(clone, logits, n_logits, allowed, 2, &second, sizeof second, &error));
    CHECK(first.token == second.token && first.token > 1 && first.token < 9 && first.n_alternatives == 2 && calls == 2);
    FAILS(GROK1_ERR_ARGUMENT, grok1_sampler_sample(clone, NULL, n_logits, NULL, 0, &second, sizeof second, &error));

    uint64_t draws = 0;
    OK(grok1_sampler_draws(sampler, &draws, &error));
    OK(grok1_sampler_set_draws(sampler, 0, &error));
    CHECK(draws == 1);
    uint32_t tokens[9];
    double probabilities[9], sum = 0;
    OK(grok1_sampler_distribution(sampler, logits, n_logits, allowed, 2, tokens, probabilities, 9, &needed, &error));
    for (size_t i = 0; i < needed; i++)
        sum += probabilities[i];
    CHECK(needed > 0 && needed <= 5 && fabs(sum - 1) < 1e-6);

    uint8_t saved[4096];
    OK(grok1_sampler_save(sampler, saved, sizeof saved, &needed, &error));
    OK(grok1_sampler_restore(saved, needed, &restored, &error));
    grok1_sampler_free(sampler);
    grok1_sampler_free(clone);
    grok1_sampler_free(restored);
}

static void sessions(const grok1_model *model)
{
    grok1_session *session = NULL, *fork = NULL, *restored = NULL;
    grok1_session_options options;
    grok1_session_info info;
    grok1_session_options_init(&options, sizeof options);
    options.context = 64;
    OK(grok1_session_new(model, &options, &session, &error));

    const uint32_t tokens[] = {484, 537, 300, 301};
    float scores[4];
    size_t needed = 0;
    OK(grok1_session_score(session, tokens, 2, scores, NULL, &error));
    CHECK(isnan(scores[0]) && scores[1] < 0);
    OK(grok1_session_push(session, tokens + 2, 2, &error));
    OK(grok1_session_push_text(session, " and", 4, &error));
    uint32_t held[64];
    OK(grok1_session_tokens(session, held, 64, &needed, &error));
    CHECK(needed >= 5 && held[0] == 484);
    OK(grok1_session_truncate(session, 4, &error));
    OK(grok1_session_fork(session, &fork, &error));

    /* Both in one batch, one with all its logits, the other with a hidden state; then progress, a cancel and a wrong entry. */
    grok1_entry entries[2];
    grok1_control control;
    grok1_cancel *cancel = NULL;
    int rows[2] = {0, 0}, calls = 0;
    for (int i = 0; i < 2; i++) {
        grok1_entry_init(&entries[i], sizeof entries[i]);
        entries[i].session = i == 0 ? session : fork;
        entries[i].tokens = tokens;
        entries[i].n_tokens = 1;
        entries[i].want = i == 0 ? GROK1_WANT_ALL : GROK1_WANT_HIDDEN;
        entries[i].sink = on_row;
        entries[i].sink_user = &rows[i];
    }
    grok1_control_init(&control, sizeof control);
    OK(grok1_cancel_new(&cancel, &error));
    control.cancel = cancel;
    control.progress = on_progress;
    control.progress_user = &calls;
    OK(grok1_run(model, entries, 2, &control, &error));
    CHECK(rows[0] == 3 && rows[1] == 3 && calls > 0);
    grok1_cancel_set(cancel);
    CHECK(grok1_cancel_is_set(cancel));
    FAILS(GROK1_ERR_CANCELLED, grok1_run(model, entries, 2, &control, &error));
    grok1_cancel_clear(cancel);
    grok1_cancel_free(cancel);
    entries[1].session = session;
    CHECK(grok1_run(model, entries, 2, NULL, &error) == GROK1_ERR_ARGUMENT && grok1_error_entry(error) == 1);
    grok1_error_free(error);
    error = NULL;

    sampling(session);

    /* Saved with a sampler, and restored with it. */
    struct saved saved = {NULL, 0, 0, 0};
    grok1_sampler *sampler = NULL, *with = NULL;
    OK(grok1_sampler_new(NULL, &sampler, &error));
    OK(grok1_session_save(session, sampler, on_write, &saved, NULL, &error));
    OK(grok1_session_restore(model, on_read, &saved, NULL, NULL, &restored, &with, &error));
    OK(grok1_session_get_info(restored, &info, sizeof info, &error));
    CHECK(with != NULL && info.tokens == 5 && saved.taken == saved.len);
    saved.taken = 0;
    saved.data[saved.len / 2] ^= 1;
    grok1_session *broken = NULL;
    FAILS(GROK1_ERR_FORMAT, grok1_session_restore(model, on_read, &saved, NULL, NULL, &broken, NULL, &error));
    free(saved.data);
    grok1_sampler_free(sampler);
    grok1_sampler_free(with);
    grok1_session_free(restored);
    grok1_session_free(fork);
    grok1_session_free(session);
    OK(grok1_model_trim(model, NULL, &error));
}

static void generations(const grok1_model *model)
{
    grok1_session *session = NULL;
    grok1_sampler *sampler = NULL;
    grok1_generation *generation = NULL;
    grok1_sampler_options greedy;
    grok1_generation_options options;
    grok1_generation_info info;
    grok1_token token;
    int calls = 0;
    grok1_sampler_options_init(&greedy, sizeof greedy);
    greedy.temperature = 0;
    grok1_generation_options_init(&options, sizeof options);
    const grok1_text stop = {"never in this text", 18};
    options.stop = &stop;
    options.n_stop = 1;
    options.max_tokens = 12;
    OK(grok1_session_new(model, NULL, &session, &error));
    OK(grok1_sampler_new(&greedy, &sampler, &error));
    OK(grok1_generation_new(&options, &generation, &error));

    /* A token each way: after a run, step by step, and the rest. */
    const char prompt[] = "The king";
    OK(grok1_session_push_text(session, prompt, strlen(prompt), &error));
    OK(grok1_session_feed(session, NULL, 0, NULL, &error));
    OK(grok1_generation_accept(generation, session, sampler, &token, sizeof token, &error));
    printf("%s%.*s", prompt, (int)token.text_len, token.text);
    OK(grok1_generation_next(generation, session, sampler, NULL, &token, sizeof token, &error));
    printf("%.*s", (int)token.text_len, token.text);
    OK(grok1_generation_run(generation, session, sampler, on_token, &calls, NULL, &error));
    OK(grok1_generation_get_info(generation, &info, sizeof info, &error));
    CHECK(calls == 10 && info.tokens == 12 && info.finish == GROK1_FINISH_MAX_TOKENS);
    FAILS(GROK1_ERR_ENDED, grok1_generation_next(generation, session, sampler, NULL, &token, sizeof token, &error));
    putchar('\n');
    grok1_generation_free(generation);
    grok1_sampler_free(sampler);
    grok1_session_free(session);
}

int main(int argc, char **argv)
{
    grok1_model *model = NULL;
    grok1_model_options options;
    grok1_model_info info;
    grok1_config config;
    grok1_checkpoint *checkpoint = NULL;
    grok1_tokenizer *tokenizer = NULL;
    CHECK(argc == 4);

    versions();
    OK(grok1_set_log(on_log, &error, GROK1_LOG_TRACE, &error));
    tokenizers(argv[2]);
    checkpoints(argv[1], argv[3]);

    grok1_model_options_init(&options, sizeof options);
    options.threads = 2;
    options.tokenizer = argv[2];
    options.kernel_cache = argv[3]; /* of GPUs */
    options.gpu_layers = 1;
    options.experts_on_cpu = -1;
    options.device = "gpu";
    FAILS(GROK1_ERR_ARGUMENT, grok1_model_load(argv[1], &options, NULL, &model, &error));
    options.device = "cpu";
    OK(grok1_model_load(argv[1], &options, NULL, &model, &error));
    OK(grok1_model_get_info(model, &info, sizeof info, &error));
    OK(grok1_model_get_config(model, &config, sizeof config, &error));
    CHECK(info.vocab == config.vocab && info.has_tokenizer);
    OK(grok1_model_get_checkpoint(model, &checkpoint, &error));
    OK(grok1_model_get_tokenizer(model, &tokenizer, &error));
    sessions(model);
    generations(model);
    grok1_model_free(model);
    grok1_checkpoint_free(checkpoint);
    grok1_tokenizer_free(tokenizer);
    OK(grok1_set_log(NULL, NULL, GROK1_LOG_OFF, &error));
    return 0;
}
