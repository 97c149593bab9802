/*
 * grok1: runs Grok-1, xAI's 314-billion-parameter mixture-of-experts model, inside your program.
 *
 * Generated from src/capi. This header is the manual; what holds for all of it comes first.
 *
 * Language. C99, and C++11 or later. No struct is passed by value, no function is variadic, and no enum stands in a signature.
 *
 * Status. Functions that can fail return a grok1_status, which is enough to act on. Their last parameter receives an error for people,
 * and may be NULL. Each function says what it returns; besides that, every one of them may return
 *   GROK1_ERR_ARGUMENT  for a NULL where none is allowed, a pointer that is not aligned, a length or a code that cannot be;
 *   GROK1_ERR_ABI       for a struct from a newer header that sets what this library does not know;
 *   GROK1_ERR_BUSY      for a handle that one thread may use at a time, in use by another call;
 *   GROK1_ERR_PANIC     for a defect of this library, GROK1_ERR_POISONED for a handle that took part in one.
 *
 * Outputs. What a pointer receives is set to NULL or 0 first, so that a failed call leaves nothing to free. If an output itself is NULL,
 * that is GROK1_ERR_ARGUMENT, unless the function says otherwise.
 *
 * Handles. What a function makes is freed with the function of its name that ends in _free, never with free(); in any order, since
 * handles keep what they need of each other; and NULL is fine. A handle may be freed in a callback of the very call that uses it, but not
 * by one thread while another calls with it.
 *
 * Structs. Each that may grow begins with struct_size. Options have a function that fills in the defaults, which takes sizeof of the
 * struct: a program and a library of different age then understand each other. Infos are filled by functions that take the same size; in
 * an older library fields that it does not know are 0. In an array all structs have the same size.
 *
 * Buffers. Functions with a capacity and a needed are called twice: with a NULL buffer and a capacity of 0 they say how many elements are
 * needed; with a buffer they fill it, or return GROK1_ERR_BUFFER, write nothing and say how many are needed. Nothing is ever cut off.
 *
 * Text. UTF-8 with a length, in which NUL is a byte like others; GROK1_ERR_UTF8 otherwise. Paths are NUL-terminated bytes of the
 * operating system's (UTF-8 on Windows), and names and specs NUL-terminated UTF-8.
 *
 * Callbacks. They get the user pointer that was given beside them. They must not throw, longjmp or end their thread: a C++ exception that
 * leaves one ends the process with a message. Where a callback says nothing else it comes on the thread that made the call.
 *
 * Threads. Each type says. The library never prints, exits, installs signal handlers or reads environment variables. When a defect is
 * caught, Rust's own panic hook writes a line to stderr, as in any Rust program; the library does not replace it. After fork() the child may
 * only exec or _exit: the library's threads do not come along.
 */

#ifndef GROK1_H
#define GROK1_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Version of the library that this header belongs to. */
#define GROK1_VERSION_MAJOR 0
#define GROK1_VERSION_MINOR 1
#define GROK1_VERSION_PATCH 0
/** The version in one number, for comparisons. */
#define GROK1_VERSION_NUMBER (GROK1_VERSION_MAJOR * 1000000 + GROK1_VERSION_MINOR * 1000 + GROK1_VERSION_PATCH)
/** The version as text. */
#define GROK1_VERSION_STRING "0.1.0"

#if defined(_WIN32) && defined(GROK1_SHARED)
#define GROK1_API __declspec(dllimport)
#elif defined(__GNUC__)
#define GROK1_API __attribute__((visibility("default")))
#else
#define GROK1_API
#endif

/** Warns where a status is not looked at. */
#if defined(__GNUC__)
#define GROK1_NODISCARD __attribute__((warn_unused_result))
#else
#define GROK1_NODISCARD
#endif

/** What `grok1_error_entry` returns for an error of no entry. */
#define GROK1_NO_ENTRY SIZE_MAX
/** What `grok1_text_stream_stopped` returns while no stop string was met. */
#define GROK1_NO_STOP SIZE_MAX
/** No token, where one could be. */
#define GROK1_NO_TOKEN UINT32_MAX


/**
 * Version of the binary interface that the header describes. It moves when a program built with an older header can no longer
 * run with a newer library, and with it the shared library's name. While it is 0 layouts may still change with any release.
 */
#define GROK1_ABI_VERSION 0

/**
 * What a callback returns to go on.
 */
#define GROK1_CONTINUE 0

/**
 * What a callback returns to stop the call it was called from; so does every value that is not `GROK1_CONTINUE`.
 */
#define GROK1_STOP 1

/**
 * Progress in loading weights; the unit is a byte.
 */
#define GROK1_TASK_LOAD 0

/**
 * Progress in running tokens; the unit is one token through one layer.
 */
#define GROK1_TASK_RUN 1

/**
 * Progress in converting; the unit is a byte of what is written.
 */
#define GROK1_TASK_CONVERT 2

/**
 * Progress in comparing what was written; the unit is a byte of it.
 */
#define GROK1_TASK_VERIFY 3

/**
 * Activations are rounded to bf16 before products with weights; the default.
 */
#define GROK1_PRECISION_STANDARD 0

/**
 * f32 throughout.
 */
#define GROK1_PRECISION_EXACT 1

/**
 * As standard, but where the processor multiplies few rows with quantised weights, activations have 8 bits.
 */
#define GROK1_PRECISION_FAST 2

/**
 * Keys and values of 2 bytes; the default.
 */
#define GROK1_KV_BF16 0

/**
 * Keys and values of 4 bytes.
 */
#define GROK1_KV_F32 1

/**
 * Weights are read from the mapped file where they lie; the default. A file that shrinks while it is mapped raises SIGBUS.
 */
#define GROK1_WEIGHTS_MAPPED 0

/**
 * Weights are read into memory once.
 */
#define GROK1_WEIGHTS_OWNED 1

/**
 * The last token's logits are wanted: `grok1_session_logits` has them then. The default.
 */
#define GROK1_WANT_LAST 0

/**
 * Only keys and values are wanted.
 */
#define GROK1_WANT_NOTHING 1

/**
 * Every token's logits are wanted, in `sink`; the last one's also in `grok1_session_logits`.
 */
#define GROK1_WANT_ALL 2

/**
 * Every token's hidden state after the last norm is wanted, in `sink`.
 */
#define GROK1_WANT_HIDDEN 3

/**
 * What `sampler` needs to choose the next token is wanted, for `grok1_generation_accept` with it as it is. The same tokens come of it as
 * of `GROK1_WANT_LAST`, but a device may hand over its best few logits instead of all of them, so that `grok1_session_logits` would
 * have to compute them again.
 */
#define GROK1_WANT_SAMPLE 4

/**
 * The generation goes on.
 */
#define GROK1_FINISH_NONE 0

/**
 * The model ended its text.
 */
#define GROK1_FINISH_END_OF_TEXT 1

/**
 * A stop string was complete.
 */
#define GROK1_FINISH_STOP 2

/**
 * As many tokens as asked for.
 */
#define GROK1_FINISH_MAX_TOKENS 3

/**
 * The session's context is full.
 */
#define GROK1_FINISH_CONTEXT_FULL 4

/**
 * Ordinary text.
 */
#define GROK1_TOKEN_NORMAL 1

/**
 * Stands for what the vocabulary cannot write.
 */
#define GROK1_TOKEN_UNKNOWN 2

/**
 * Never made from text, and invisible in it: `[EOS]`.
 */
#define GROK1_TOKEN_CONTROL 3

/**
 * Recognised as a whole inside text.
 */
#define GROK1_TOKEN_USER_DEFINED 4

/**
 * Present but not used.
 */
#define GROK1_TOKEN_UNUSED 5

/**
 * One raw byte.
 */
#define GROK1_TOKEN_BYTE 6

/**
 * GGUF with names that llama.cpp reads; the default.
 */
#define GROK1_FORMAT_GGUF 0

/**
 * A folder of bf16 safetensors.
 */
#define GROK1_FORMAT_SAFETENSORS 1

/**
 * Nothing is logged.
 */
#define GROK1_LOG_OFF 0

/**
 * Something failed.
 */
#define GROK1_LOG_ERROR 1

/**
 * Something is not as it should be.
 */
#define GROK1_LOG_WARN 2

/**
 * What a person may want to know.
 */
#define GROK1_LOG_INFO 3

/**
 * What a developer may want to know.
 */
#define GROK1_LOG_DEBUG 4

/**
 * Everything.
 */
#define GROK1_LOG_TRACE 5

/**
 * A flag that stops the long calls it was given to.
 *
 * Lifetime: until `grok1_cancel_free`; calls that use it keep what they need of it. Threads: may be set, cleared and read from any,
 * and from a signal handler.
 */
typedef struct grok1_cancel grok1_cancel;

/**
 * A model's files, opened: their headers were read, their weights were not.
 *
 * Lifetime: until `grok1_checkpoint_free`; models loaded from it keep what they need. Threads: immutable, may be used from any.
 */
typedef struct grok1_checkpoint grok1_checkpoint;

/**
 * A model to be written in another form, and what came of it.
 *
 * Lifetime: until `grok1_conversion_free`; it keeps its checkpoint alive. Threads: one at a time, a second one gets `GROK1_ERR_BUSY`.
 */
typedef struct grok1_conversion grok1_conversion;

/**
 * What went wrong, for people and logs. The status alone says what to do.
 *
 * Lifetime: owned by whoever received it, until `grok1_error_free`. Threads: immutable, may be used from any.
 */
typedef struct grok1_error grok1_error;

/**
 * A generation under way: limits, stop strings, and the text that is held back.
 *
 * Lifetime: until `grok1_generation_free`; it holds no session, and one sequence should go on with the same. Threads: one at a time, a
 * second one gets `GROK1_ERR_BUSY`.
 */
typedef struct grok1_generation grok1_generation;

/**
 * A loaded model.
 *
 * Lifetime: until `grok1_model_free`; sessions keep what they need of it, so the two may be freed in any order. Threads: immutable,
 * may be used from any; runs of several threads take turns.
 */
typedef struct grok1_model grok1_model;

/**
 * What a model needs, and where it would lie.
 *
 * Lifetime: until `grok1_plan_free`. Threads: immutable, may be used from any.
 */
typedef struct grok1_plan grok1_plan;

/**
 * Chooses the next token from a model's logits. One belongs to one sequence.
 *
 * Steps come in a fixed order: logit bias, allowed tokens, penalties, the host's filter, temperature, top-k, top-p, min-p, draw. The
 * same logits, history and settings give the same token on every platform.
 *
 * Lifetime: until `grok1_sampler_free`. Threads: one at a time, a second one gets `GROK1_ERR_BUSY`.
 */
typedef struct grok1_sampler grok1_sampler;

/**
 * One sequence of a model: its tokens, its keys and values.
 *
 * A session remembers its tokens. Those that were run have keys and values; those that were pushed wait, and the next run begins
 * with them.
 *
 * Lifetime: until `grok1_session_free`; it keeps its model alive. Threads: one at a time, a second one gets `GROK1_ERR_BUSY`.
 */
typedef struct grok1_session grok1_session;

/**
 * Text from tokens as they come: whole characters, and nothing that may still turn out to be a stop string. Generations have their own.
 *
 * Lifetime: until `grok1_text_stream_free`; it keeps its tokenizer alive. Threads: one at a time, a second one gets `GROK1_ERR_BUSY`.
 */
typedef struct grok1_text_stream grok1_text_stream;

/**
 * Turns text into tokens and back, exactly as sentencepiece does. No begin- or end-of-sequence token is ever added.
 *
 * Lifetime: until `grok1_tokenizer_free`; it shares what it needs with its model. Threads: immutable, may be used from any.
 */
typedef struct grok1_tokenizer grok1_tokenizer;

/**
 * What a call returns. Numbers are frozen, and say in hundreds what kind of failure it is:
 * 1xx the caller's mistake, 2xx a file, 3xx memory and devices, 4xx ends of normal work that callers handle, 5xx a defect of
 * this library. A newer library may return numbers that this header does not have.
 */
typedef int32_t grok1_status;

/**
 * Hears how far a long call is, on the thread that made it: `done` of `total` units of `task` (`GROK1_TASK_...`). Returns
 * `GROK1_CONTINUE`, or `GROK1_STOP` to cancel the call.
 *
 * While tokens run the model's turn is taken: calls that run, save or restore sessions of the same model are refused with
 * `GROK1_ERR_BUSY` here.
 */
typedef int32_t (*grok1_progress_fn)(void *user, int32_t task, uint64_t done, uint64_t total);

/**
 * How a long call is watched and stopped. Call `grok1_control_init` first; NULL for neither.
 *
 * Lifetime: the call that it is given to. Threads: it is only read.
 */
typedef struct grok1_control {
  /**
   * Set by `grok1_control_init`.
   */
  size_t struct_size;
  /**
   * Stops the call when it is set; NULL for none.
   */
  const struct grok1_cancel *cancel;
  /**
   * Hears of progress; NULL for none.
   */
  grok1_progress_fn progress;
  /**
   * What `progress` gets.
   */
  void *progress_user;
} grok1_control;

/**
 * Fills `data` with the `len` bytes from `offset`. Returns `GROK1_CONTINUE`, anything else if that failed. Comes from any thread,
 * from several at once.
 */
typedef int32_t (*grok1_read_at_fn)(void *user, uint64_t offset, void *data, size_t len);

/**
 * Hears that a source is needed no more. Comes once, from any thread.
 */
typedef void (*grok1_release_fn)(void *user);

/**
 * A file of a model that the host has somewhere of its own: behind a callback, or as an open file descriptor. Call
 * `grok1_source_init` first.
 *
 * Lifetime: the struct and its name that of the call; what `user` points to, until `release`, after a call that succeeded. Threads:
 * see `grok1_read_at_fn`.
 */
typedef struct grok1_source {
  /**
   * Set by `grok1_source_init`.
   */
  size_t struct_size;
  /**
   * The file's name, without folders, in UTF-8: formats and parts of a model are known by their names.
   */
  const char *name;
  /**
   * Reads the file; NULL to use `fd`.
   */
  grok1_read_at_fn read_at;
  /**
   * Called when the source is needed no more; NULL for nothing to do.
   */
  grok1_release_fn release;
  /**
   * What the callbacks get.
   */
  void *user;
  /**
   * Bytes of the file, if it has `read_at`.
   */
  uint64_t len;
  /**
   * A file descriptor, open for reading, if there is no `read_at`. It is duplicated: the host's own may be closed after the call.
   */
  ptrdiff_t fd;
} grok1_source;

/**
 * A part of parallel work, given to `grok1_pool_run_fn`.
 */
typedef void (*grok1_part_fn)(void *context, size_t part);

/**
 * Calls `part(context, i)` once for each `i` below `parts`, on any threads and in any order, and returns when all have returned. After
 * that `context` is gone. Comes from any thread, from several at once.
 */
typedef void (*grok1_pool_run_fn)(void *user, size_t parts, grok1_part_fn part, void *context);

/**
 * Threads of the host's own to compute on. Call `grok1_pool_init` first.
 *
 * Lifetime: the struct that of the call; `user`, that of everything that was made with it. Threads: see `grok1_pool_run_fn`.
 */
typedef struct grok1_pool {
  /**
   * Set by `grok1_pool_init`.
   */
  size_t struct_size;
  /**
   * How many threads work at once, the caller's included.
   */
  size_t width;
  /**
   * Runs the parts of parallel work.
   */
  grok1_pool_run_fn run;
  /**
   * What `run` gets.
   */
  void *user;
} grok1_pool;

/**
 * How a model is loaded. Call `grok1_model_options_init` first; NULL for the defaults.
 *
 * Lifetime: the call that it is given to. Threads: it is only read.
 */
typedef struct grok1_model_options {
  /**
   * Set by `grok1_model_options_init`.
   */
  size_t struct_size;
  /**
   * Path of a SentencePiece `tokenizer.model` instead of the one in or beside the model; NULL for that one.
   */
  const char *tokenizer;
  /**
   * Bytes that the keys and values of all sessions together may use; 0 for no limit.
   */
  uint64_t kv_limit;
  /**
   * Tokens that go through the layers together at most; 0 for the default, 512.
   */
  size_t batch_rows;
  /**
   * Threads of the host's own to compute on, where the processor computes; NULL for the library's.
   */
  const struct grok1_pool *pool;
  /**
   * Threads that compute on the processor, the calling one included; 0 for one per core. Results are the same bits for any number.
   */
  uint32_t threads;
  /**
   * `GROK1_PRECISION_...`
   */
  int32_t precision;
  /**
   * `GROK1_KV_...`
   */
  int32_t kv_type;
  /**
   * `GROK1_WEIGHTS_...`: the processor's; a GPU has them in its memory.
   */
  int32_t weights;
  /**
   * What the model runs on: "cpu", "cuda:0", "hip:0" or another number, "cpu:0" or another number for a NUMA node, "auto" for the
   * first GPU with room for all of the model or else the processor; NULL for "cpu".
   */
  const char *device;
  /**
   * Path of the folder that keeps kernels which were compiled for a GPU; NULL for `grok1/kernels` in `XDG_CACHE_HOME`, or in
   * `.cache` at home.
   */
  const char *kernel_cache;
  /**
   * Layers that run on the GPU, the first of them, with embedding and head; the processor computes the others. Negative, the default,
   * for all, or as many as the GPU has room for.
   */
  int32_t gpu_layers;
  /**
   * Of the last so many layers on the GPU the processor computes the experts, from host memory; negative for all of them, 0 for none.
   */
  int32_t experts_on_cpu;
} grok1_model_options;

/**
 * What was opened, in short.
 *
 * Lifetime: its strings live as long as the checkpoint it was asked of. Threads: it is the caller's.
 */
typedef struct grok1_checkpoint_info {
  /**
   * The bytes that the caller said it has.
   */
  size_t struct_size;
  /**
   * Where it was found.
   */
  const char *location;
  /**
   * "xai", "gguf", "safetensors" or "synthetic".
   */
  const char *format;
  /**
   * Bytes of all weights.
   */
  uint64_t bytes;
  /**
   * Bytes of weights that one token reads.
   */
  uint64_t bytes_per_token;
  /**
   * Stored tensors: what `grok1_checkpoint_tensor` counts to.
   */
  size_t tensors;
  /**
   * Entries of the vocabulary; 0 if none was found.
   */
  size_t vocabulary;
} grok1_checkpoint_info;

/**
 * A stored tensor.
 *
 * Lifetime: what it points to lives as long as the checkpoint it was asked of. Threads: it is the caller's.
 */
typedef struct grok1_tensor {
  /**
   * The bytes that the caller said it has.
   */
  size_t struct_size;
  /**
   * Its name in the model.
   */
  const char *name;
  /**
   * The file it lies in.
   */
  const char *file;
  /**
   * The type of its elements: "f32", "bf16", "i8", "q4_k".
   */
  const char *dtype;
  /**
   * Its shape, slowest axis first.
   */
  const uint64_t *shape;
  /**
   * Axes of the shape.
   */
  size_t n_shape;
  /**
   * Shape of the scales that belong to it; NULL if it has none.
   */
  const uint64_t *scales;
  /**
   * Axes of the scales.
   */
  size_t n_scales;
  /**
   * Bytes of elements and scales.
   */
  uint64_t bytes;
} grok1_tensor;

/**
 * The hyperparameters of a model.
 *
 * Lifetime and threads: it is the caller's.
 */
typedef struct grok1_config {
  /**
   * The bytes that the caller said it has.
   */
  size_t struct_size;
  /**
   * Decoder layers.
   */
  size_t layers;
  /**
   * Width of the residual stream.
   */
  size_t width;
  /**
   * Query heads.
   */
  size_t heads;
  /**
   * Key/value heads.
   */
  size_t kv_heads;
  /**
   * Values per head.
   */
  size_t head_dim;
  /**
   * Experts per layer.
   */
  size_t experts;
  /**
   * Experts that each token uses.
   */
  size_t selected_experts;
  /**
   * Hidden width of one expert.
   */
  size_t ffn_width;
  /**
   * Tokens in the vocabulary: the length of logits.
   */
  size_t vocab;
  /**
   * Positions the model was trained for.
   */
  size_t context;
  /**
   * Multiplies embedding rows.
   */
  float embedding_scale;
  /**
   * Multiplies logits.
   */
  float output_scale;
  /**
   * Multiplies attention scores.
   */
  float attention_scale;
  /**
   * Attention scores become `cap * tanh(score / cap)`; 0 for no cap.
   */
  float attention_cap;
  /**
   * The same for router logits.
   */
  float router_cap;
  /**
   * The same for logits.
   */
  float output_cap;
  /**
   * Added to the mean square inside each RMS norm.
   */
  float norm_epsilon;
  /**
   * Base of the rotary embedding.
   */
  float rope_base;
  /**
   * Not 0 if the selected gates are divided by their sum.
   */
  int32_t renormalise_gates;
  /**
   * Padding token.
   */
  uint32_t pad;
  /**
   * Begin-of-sequence token; never added by itself.
   */
  uint32_t bos;
  /**
   * End-of-sequence token.
   */
  uint32_t eos;
} grok1_config;

/**
 * A loaded model, in short: what is in effect.
 *
 * Lifetime: its strings live as long as the model it was asked of. Threads: it is the caller's.
 */
typedef struct grok1_model_info {
  /**
   * The bytes that the caller said it has.
   */
  size_t struct_size;
  /**
   * Where it was found.
   */
  const char *location;
  /**
   * "xai", "gguf", "safetensors" or "synthetic".
   */
  const char *format;
  /**
   * What computes: "cpu (avx512, 2 threads)", "cuda:0 (NVIDIA H200, sm_90)". What follows the first word is for people.
   */
  const char *device;
  /**
   * Tokens in the vocabulary: the length of logits.
   */
  size_t vocab;
  /**
   * Positions the model was trained for.
   */
  size_t context;
  /**
   * Bytes of keys and values that sessions hold at present.
   */
  uint64_t kv_bytes;
  /**
   * `GROK1_KV_...`
   */
  int32_t kv_type;
  /**
   * Not 0 if it has a tokenizer.
   */
  int32_t has_tokenizer;
  /**
   * Why "auto" took none of the devices before this one: "no cuda: ...; not hip:0: ..."; empty if there were none, or another was
   * asked for.
   */
  const char *passed_over;
} grok1_model_info;

/**
 * Gets `count` values of token number `row` among those that the entry ran, one token after the other, on the thread that made the
 * call. Returns `GROK1_CONTINUE`, or `GROK1_STOP` to cancel the run. The values are there for as long as the callback runs; calls
 * that run, save or restore sessions of the same model are refused with `GROK1_ERR_BUSY` here.
 */
typedef int32_t (*grok1_row_fn)(void *user, size_t row, const float *values, size_t count);

/**
 * Tokens to run on a session. Call `grok1_entry_init` first.
 *
 * Lifetime: the call that it is given to. Threads: it is only read.
 */
typedef struct grok1_entry {
  /**
   * Set by `grok1_entry_init`.
   */
  size_t struct_size;
  /**
   * The session; none may be in two entries of a run.
   */
  struct grok1_session *session;
  /**
   * The tokens to run after those that wait in the session; NULL and 0 if only those are to run.
   */
  const uint32_t *tokens;
  /**
   * How many.
   */
  size_t n_tokens;
  /**
   * Gets values for `GROK1_WANT_ALL` and `GROK1_WANT_HIDDEN`.
   */
  grok1_row_fn sink;
  /**
   * What `sink` gets.
   */
  void *sink_user;
  /**
   * `GROK1_WANT_...`
   */
  int32_t want;
  /**
   * Zero.
   */
  int32_t reserved;
  /**
   * Whose needs `GROK1_WANT_SAMPLE` is about; no two entries may have the same.
   */
  const struct grok1_sampler *sampler;
} grok1_entry;

/**
 * How a session is made. Call `grok1_session_options_init` first; NULL for the defaults.
 *
 * Lifetime: the call that it is given to. Threads: it is only read.
 */
typedef struct grok1_session_options {
  /**
   * Set by `grok1_session_options_init`.
   */
  size_t struct_size;
  /**
   * Positions the session may have; 0 for as many as the model was trained for.
   */
  size_t context;
  /**
   * Not 0 to allow more positions than the model was trained for. What comes out there is untested.
   */
  int32_t beyond_trained_length;
  /**
   * Zero.
   */
  int32_t reserved;
} grok1_session_options;

/**
 * A session, in short.
 *
 * Lifetime and threads: it is the caller's.
 */
typedef struct grok1_session_info {
  /**
   * The bytes that the caller said it has.
   */
  size_t struct_size;
  /**
   * All tokens, those that wait included.
   */
  size_t tokens;
  /**
   * Tokens that were run.
   */
  size_t position;
  /**
   * Tokens that can be run in all.
   */
  size_t context;
  /**
   * Not 0 if `grok1_session_logits` has any.
   */
  int32_t has_logits;
  /**
   * Not 0 after a call that ended with `GROK1_ERR_PANIC`: what else this says is what that call left.
   */
  int32_t poisoned;
} grok1_session_info;

/**
 * Takes the next `len` bytes of a saved session. Returns `GROK1_CONTINUE`, anything else if that failed.
 */
typedef int32_t (*grok1_write_fn)(void *user, const void *data, size_t len);

/**
 * Gives the next bytes of a saved session: `len` at most, at least one, and says in `*read` how many; 0 at the end. Returns
 * `GROK1_CONTINUE`, anything else if that failed.
 */
typedef int32_t (*grok1_read_fn)(void *user, void *data, size_t len, size_t *read);

/**
 * A bias on the logit of a token. This struct will never change.
 *
 * Lifetime: the call that it is given to. Threads: it is only read.
 */
typedef struct grok1_logit_bias {
  /**
   * The token.
   */
  uint32_t token;
  /**
   * What is added to its logit; -infinity excludes it.
   */
  float bias;
} grok1_logit_bias;

/**
 * What a sampler does. Call `grok1_sampler_options_init` first, after which it draws from the model's own distribution; NULL for that.
 *
 * Lifetime: the call that it is given to. Threads: it is only read.
 */
typedef struct grok1_sampler_options {
  /**
   * Set by `grok1_sampler_options_init`.
   */
  size_t struct_size;
  /**
   * Makes draws repeatable: the same seed, the same tokens. Default 0; nothing is ever seeded from the clock.
   */
  uint64_t seed;
  /**
   * Keeps only so many best tokens; 0, the default, is off.
   */
  size_t top_k;
  /**
   * The penalties look at so many last tokens only; default `SIZE_MAX`, all of them.
   */
  size_t penalty_window;
  /**
   * Biases on the logits of tokens; NULL for none.
   */
  const struct grok1_logit_bias *logit_bias;
  /**
   * How many.
   */
  size_t n_logit_bias;
  /**
   * The only tokens that may be chosen; NULL for any.
   */
  const uint32_t *allowed_tokens;
  /**
   * How many.
   */
  size_t n_allowed_tokens;
  /**
   * Divides logits; 0 takes the best token. Default 1.
   */
  float temperature;
  /**
   * Keeps only the fewest best tokens whose probabilities sum to more than this, from 0 to 1; 1, the default, is off.
   */
  float top_p;
  /**
   * Keeps only tokens with at least this share of the best one's probability, from 0 to 1; 0, the default, is off.
   */
  float min_p;
  /**
   * Divides positive logits of tokens that came before and multiplies negative ones, above 0; 1, the default, is off.
   */
  float repetition_penalty;
  /**
   * Subtracted from the logits of tokens that came before. Default 0.
   */
  float presence_penalty;
  /**
   * Subtracted from the logits of tokens that came before, as often as they came. Default 0.
   */
  float frequency_penalty;
  /**
   * How many of the model's most likely tokens to report with each token. Default 0.
   */
  uint32_t alternatives;
  /**
   * 0 to leave out log-probabilities, which saves a pass over the logits. Default 1.
   */
  int32_t logprobs;
} grok1_sampler_options;

/**
 * The host's own filter: gets the tokens so far and the logits, which it may change; -infinity excludes a token. Comes on the thread
 * that samples.
 */
typedef void (*grok1_filter_fn)(void *user,
                                const uint32_t *history,
                                size_t n_history,
                                float *logits,
                                size_t n_logits);

/**
 * A token the model could go on with. This struct will never change.
 *
 * Lifetime: that of the array it stands in. Threads: it is only read.
 */
typedef struct grok1_alternative {
  /**
   * The token.
   */
  uint32_t token;
  /**
   * Natural logarithm of its probability under the model itself, before any setting of the sampler.
   */
  float logprob;
} grok1_alternative;

/**
 * What a sampler chose.
 *
 * Lifetime: what it points to, until the sampler is used again. Threads: it is the caller's.
 */
typedef struct grok1_sampled {
  /**
   * The bytes that the caller said it has.
   */
  size_t struct_size;
  /**
   * The model's most likely tokens, best first, as many as the sampler was told to report.
   */
  const struct grok1_alternative *alternatives;
  /**
   * How many.
   */
  size_t n_alternatives;
  /**
   * The token.
   */
  uint32_t token;
  /**
   * Natural logarithm of its probability under the model; NaN if the sampler was told to leave it out.
   */
  float logprob;
} grok1_sampled;

/**
 * UTF-8 of `len` bytes, which may have NUL among them. This struct will never change.
 *
 * Lifetime: the call that it is given to. Threads: it is only read.
 */
typedef struct grok1_text {
  /**
   * The bytes.
   */
  const char *data;
  /**
   * How many.
   */
  size_t len;
} grok1_text;

/**
 * What ends a generation. Call `grok1_generation_options_init` first; NULL to go on until the end-of-text token or a full context.
 *
 * Lifetime: the call that it is given to. Threads: it is only read.
 */
typedef struct grok1_generation_options {
  /**
   * Set by `grok1_generation_options_init`.
   */
  size_t struct_size;
  /**
   * Tokens at most; default `SIZE_MAX`, no limit.
   */
  size_t max_tokens;
  /**
   * Strings before which the text ends, wherever in it they appear; none may be empty. NULL for none.
   */
  const struct grok1_text *stop;
  /**
   * How many.
   */
  size_t n_stop;
  /**
   * Not 0 to go on after the end-of-text token.
   */
  int32_t ignore_end_of_text;
  /**
   * Zero.
   */
  int32_t reserved;
} grok1_generation_options;

/**
 * A generated token and the text that it made certain.
 *
 * Lifetime: what it points to, until the generation is used again, or the callback returns that got it. Threads: it is only read.
 */
typedef struct grok1_token {
  /**
   * The bytes that whoever receives it said it has; in a callback those that the library has.
   */
  size_t struct_size;
  /**
   * Text that became certain with this token: whole characters, nothing that may still turn out to be a stop string. Often empty,
   * never NULL, and NUL-terminated only by chance: see `text_len`.
   */
  const char *text;
  /**
   * Bytes of the text.
   */
  size_t text_len;
  /**
   * The model's most likely tokens here, best first, as many as the sampler was told to report.
   */
  const struct grok1_alternative *alternatives;
  /**
   * How many.
   */
  size_t n_alternatives;
  /**
   * Number of this token among those of the generation, from 0.
   */
  size_t index;
  /**
   * The token.
   */
  uint32_t id;
  /**
   * Natural logarithm of its probability under the model; NaN if the sampler was told to leave it out.
   */
  float logprob;
  /**
   * `GROK1_FINISH_...`: why the generation ended, if this is its last token.
   */
  int32_t finish;
  /**
   * With `GROK1_FINISH_STOP` the number of the stop string among those given.
   */
  uint32_t stop_index;
} grok1_token;

/**
 * Gets a generated token. Returns `GROK1_CONTINUE`, or `GROK1_STOP` to stop the call. Comes on the thread that made the call, when nothing
 * is computed; the session, the sampler and the generation of that call are refused with `GROK1_ERR_BUSY` here, others are not.
 */
typedef int32_t (*grok1_token_fn)(void *user, const struct grok1_token *token);

/**
 * A generation, in short.
 *
 * Lifetime and threads: it is the caller's.
 */
typedef struct grok1_generation_info {
  /**
   * The bytes that the caller said it has.
   */
  size_t struct_size;
  /**
   * Tokens so far.
   */
  size_t tokens;
  /**
   * `GROK1_FINISH_...`: why it ended, if it has.
   */
  int32_t finish;
  /**
   * With `GROK1_FINISH_STOP` the number of the stop string among those given.
   */
  uint32_t stop_index;
} grok1_generation_info;

/**
 * A tokenizer, in short. Tokens that it does not have are `GROK1_NO_TOKEN`.
 *
 * Lifetime and threads: it is the caller's.
 */
typedef struct grok1_tokenizer_info {
  /**
   * The bytes that the caller said it has.
   */
  size_t struct_size;
  /**
   * Number of tokens.
   */
  size_t tokens;
  /**
   * The token for what nothing else can write.
   */
  uint32_t unk;
  /**
   * The begin-of-sequence token.
   */
  uint32_t bos;
  /**
   * The end-of-sequence token.
   */
  uint32_t eos;
  /**
   * The padding token.
   */
  uint32_t pad;
} grok1_tokenizer_info;

/**
 * What a model is planned for. Call `grok1_plan_options_init` first; NULL for one session as long as the model was trained for, in the
 * memory of no device.
 *
 * A device is described as "h100", "8xh200", "mybox:192GB:800GB/s": a name, with the number of them and an x before it if they are
 * several; then, each after a colon, the memory and its bandwidth, unless `grok1_known_device` has them.
 *
 * Lifetime: the call that it is given to. Threads: it is only read.
 */
typedef struct grok1_plan_options {
  /**
   * Set by `grok1_plan_options_init`.
   */
  size_t struct_size;
  /**
   * The devices of a node, in the order in which layers are given to them; NULL for none.
   */
  const char *const *devices;
  /**
   * How many descriptions.
   */
  size_t n_devices;
  /**
   * The processor and its memory, on every node, described as a device; NULL to use none.
   */
  const char *host;
  /**
   * Positions of each session; 0 for those that the model was trained for.
   */
  size_t context;
  /**
   * Sessions that are held at once; 0 for 1.
   */
  size_t sessions;
  /**
   * Tokens that go through the layers together at most; 0 for the default, 512.
   */
  size_t batch_rows;
  /**
   * Machines that all have these devices; 0 for 1.
   */
  size_t nodes;
  /**
   * Bytes per second between two nodes; 0 for 12.5 GB/s.
   */
  uint64_t link;
  /**
   * `GROK1_KV_...`
   */
  int32_t kv_type;
  /**
   * Zero.
   */
  int32_t reserved;
} grok1_plan_options;

/**
 * A plan as a whole. Sizes are bytes; those beyond 64 bits are the largest that 64 bits have.
 *
 * Lifetime and threads: it is the caller's.
 */
typedef struct grok1_plan_info {
  /**
   * The bytes that the caller said it has.
   */
  size_t struct_size;
  /**
   * Weights by component and format: what `grok1_plan_get_share` counts to.
   */
  size_t shares;
  /**
   * Devices, and hosts where those are needed: what `grok1_plan_get_place` counts to.
   */
  size_t places;
  /**
   * Positions of a session.
   */
  size_t context;
  /**
   * Sessions that are held at once.
   */
  size_t sessions;
  /**
   * Times that a token's hidden state goes from one node to the next.
   */
  size_t hops;
  /**
   * All weights as they are stored.
   */
  uint64_t weights;
  /**
   * Weights that one token reads.
   */
  uint64_t weights_per_token;
  /**
   * Keys and values of one token.
   */
  uint64_t kv_per_token;
  /**
   * Keys and values of a full session, in whole pages.
   */
  uint64_t kv_per_session;
  /**
   * An estimate of the activations of a batch, on each device that is used.
   */
  uint64_t scratch;
  /**
   * Weights, keys and values that found no place. A model mapped from files runs all the same, at the speed of the disk.
   */
  uint64_t left_over;
  /**
   * What a hidden state has.
   */
  uint64_t hidden;
  /**
   * Bytes per second of the link between nodes.
   */
  uint64_t link;
  /**
   * Tokens per second that memory allows a session at its beginning, layer after layer; 0 if that is not known.
   */
  double layer_split_empty;
  /**
   * The same at the end of the context.
   */
  double layer_split_full;
  /**
   * Tokens per second that memory allows a session at its beginning, with every matrix cut over all devices; 0 if that cannot be.
   */
  double tensor_parallel_empty;
  /**
   * The same at the end of the context.
   */
  double tensor_parallel_full;
  /**
   * `GROK1_KV_...`
   */
  int32_t kv_type;
  /**
   * Not 0 if everything has a place.
   */
  int32_t fits;
} grok1_plan_info;

/**
 * The weights of a component that are stored in one format.
 *
 * Lifetime: its strings live as long as the plan. Threads: it is the caller's.
 */
typedef struct grok1_plan_share {
  /**
   * The bytes that the caller said it has.
   */
  size_t struct_size;
  /**
   * "embedding", "attention", "router", "experts", "norms", "output".
   */
  const char *component;
  /**
   * The format: "f32", "i8", "q4_k".
   */
  const char *dtype;
  /**
   * Bytes of elements and of their scales.
   */
  uint64_t bytes;
} grok1_plan_share;

/**
 * A device, or the memory of a host, and what lies there. Sizes are bytes.
 *
 * Lifetime: its name lives as long as the plan. Threads: it is the caller's.
 */
typedef struct grok1_plan_place {
  /**
   * The bytes that the caller said it has.
   */
  size_t struct_size;
  /**
   * The device's name.
   */
  const char *name;
  /**
   * The machine it is in, from 0.
   */
  size_t node;
  /**
   * The first layer that lies there, with its keys and values.
   */
  size_t first_layer;
  /**
   * How many layers.
   */
  size_t layers;
  /**
   * Memory that a model may take.
   */
  uint64_t memory;
  /**
   * Bytes per second that its memory gives; 0 if that is not known.
   */
  uint64_t bandwidth;
  /**
   * Weights.
   */
  uint64_t weights;
  /**
   * Keys and values of all sessions.
   */
  uint64_t kv;
  /**
   * Activations.
   */
  uint64_t scratch;
  /**
   * Weights that one token reads.
   */
  uint64_t weights_per_token;
  /**
   * Keys and values that the last token of a full session reads.
   */
  uint64_t kv_read;
  /**
   * Not 0 if it is a host's processor and memory.
   */
  int32_t host;
  /**
   * Not 0 if the embedding lies there.
   */
  int32_t embedding;
  /**
   * Not 0 if the last norm and the output projection lie there.
   */
  int32_t head;
  /**
   * Not 0 if anything lies there.
   */
  int32_t used;
} grok1_plan_place;

/**
 * A device whose figures are published.
 *
 * Lifetime: its strings live as long as the process. Threads: it is the caller's.
 */
typedef struct grok1_device {
  /**
   * The bytes that the caller said it has.
   */
  size_t struct_size;
  /**
   * What it is called in descriptions.
   */
  const char *name;
  /**
   * Where the figures are from.
   */
  const char *source;
  /**
   * Bytes of memory.
   */
  uint64_t memory;
  /**
   * Bytes per second that its memory gives; 0 if no figure of its maker's was found.
   */
  uint64_t bandwidth;
} grok1_device;

/**
 * What a model is converted to. Call `grok1_conversion_options_init` first.
 *
 * Lifetime: the call that it is given to. Threads: it is only read.
 */
typedef struct grok1_conversion_options {
  /**
   * Set by `grok1_conversion_options_init`.
   */
  size_t struct_size;
  /**
   * For GGUF, which type each tensor gets: one of `grok1_recipe_name`, in letters of either case. Must be set there.
   */
  const char *recipe;
  /**
   * For GGUF, exceptions "pattern=type": matrices whose name contains the pattern, in which `*` stands for anything, get that type. The
   * last one that matches counts. NULL for none.
   */
  const char *const *exceptions;
  /**
   * How many.
   */
  size_t n_exceptions;
  /**
   * Cuts the tensors into files of at most so many bytes; 0 for one GGUF file, or safetensors files of 10 GB.
   */
  uint64_t split;
  /**
   * Threads of the host's own to compute on; NULL for the library's.
   */
  const struct grok1_pool *pool;
  /**
   * Threads that compute, the calling one included; 0 for one per core.
   */
  uint32_t threads;
  /**
   * `GROK1_FORMAT_...`
   */
  int32_t format;
} grok1_conversion_options;

/**
 * What was written.
 *
 * Lifetime and threads: it is the caller's.
 */
typedef struct grok1_conversion_report {
  /**
   * The bytes that the caller said it has.
   */
  size_t struct_size;
  /**
   * Files of tensors: what `grok1_conversion_file` counts to.
   */
  size_t files;
  /**
   * Tensors in them.
   */
  size_t tensors;
  /**
   * Tensors that an earlier run, which was interrupted, had written.
   */
  size_t resumed;
  /**
   * Bytes of all files of tensors.
   */
  uint64_t bytes;
  /**
   * Blocks of 32 weights that were made of int8.
   */
  uint64_t int8_blocks;
  /**
   * Those among them whose weights are not exactly the checkpoint's.
   */
  uint64_t int8_inexact;
  /**
   * The largest difference of such a weight, in units of its scale in the checkpoint.
   */
  double int8_worst;
} grok1_conversion_report;

/**
 * What a comparison found, all being as it should.
 *
 * Lifetime and threads: it is the caller's.
 */
typedef struct grok1_verification {
  /**
   * The bytes that the caller said it has.
   */
  size_t struct_size;
  /**
   * Types of matrices: what `grok1_conversion_deviation` counts to.
   */
  size_t types;
  /**
   * Bytes that were compared.
   */
  uint64_t bytes;
} grok1_verification;

/**
 * Gets a message of `len` bytes of UTF-8 and its `GROK1_LOG_...` level. Comes from any thread, from several at once.
 */
typedef void (*grok1_log_fn)(void *user, int32_t level, const char *message, size_t len);

/**
 * All is well.
 */
#define GROK1_OK 0

/**
 * An argument broke what the header asks for; nothing was changed.
 */
#define GROK1_ERR_ARGUMENT 100

/**
 * Text is not UTF-8; the error's message has the offset of the first wrong byte.
 */
#define GROK1_ERR_UTF8 101

/**
 * A struct sets fields that this library does not know: the caller was built with a newer header.
 */
#define GROK1_ERR_ABI 102

/**
 * A file is missing, truncated, hostile or of another model.
 */
#define GROK1_ERR_FORMAT 200

/**
 * Memory, a device or the operating system refused, or a callback that reads or writes failed.
 */
#define GROK1_ERR_RESOURCE 300

/**
 * The call's cancel was set, or a callback asked to stop. What the call worked on is as it was before.
 */
#define GROK1_ERR_CANCELLED 400

/**
 * The tokens do not fit into the session's context.
 */
#define GROK1_ERR_CONTEXT_FULL 401

/**
 * The model's memory for keys and values is all in use: free or truncate a session and try again.
 */
#define GROK1_ERR_KV_FULL 402

/**
 * The handle is in use: by another thread, or by the call that this callback belongs to.
 */
#define GROK1_ERR_BUSY 403

/**
 * This library or this system cannot do it.
 */
#define GROK1_ERR_UNSUPPORTED 404

/**
 * The caller's buffer is too small: nothing was written to it, and the size that is needed was reported.
 */
#define GROK1_ERR_BUFFER 405

/**
 * The generation has ended: there is no further token.
 */
#define GROK1_ERR_ENDED 406

/**
 * A defect of this library that it noticed.
 */
#define GROK1_ERR_BUG 500

/**
 * A defect of this library that stopped the call in the middle. Sessions, samplers and generations that took part are poisoned.
 */
#define GROK1_ERR_PANIC 501

/**
 * The handle took part in a call that ended with `GROK1_ERR_PANIC`: it can only be freed or asked for its info.
 */
#define GROK1_ERR_POISONED 502

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The status that the call returned; `GROK1_OK` for NULL.
 */
GROK1_API grok1_status grok1_error_status(const struct grok1_error *error);

/**
 * The error and all its causes in one line of UTF-8; "" for NULL. Lives as long as the error.
 */
GROK1_API const char *grok1_error_message(const struct grok1_error *error);

/**
 * The index of the entry of `grok1_run` that was at fault; `GROK1_NO_ENTRY` if none was, and for NULL.
 */
GROK1_API size_t grok1_error_entry(const struct grok1_error *error);

/**
 * Frees an error. NULL is fine.
 */
GROK1_API void grok1_error_free(struct grok1_error *error);

/**
 * A status' name in lower case, "unknown" for a number that this library does not have. Lives as long as the process.
 */
GROK1_API
const char *grok1_status_name(grok1_status status);

/**
 * The library's version, as `GROK1_VERSION_STRING` of the header that belongs to it. Lives as long as the process.
 */
GROK1_API
const char *grok1_version(void);

/**
 * The library's version, as `GROK1_VERSION_NUMBER` of the header that belongs to it.
 */
GROK1_API uint32_t grok1_version_number(void);

/**
 * The library's `GROK1_ABI_VERSION`. A program whose header says another must not go on.
 */
GROK1_API uint32_t grok1_abi_version(void);

/**
 * Whether the library, on this machine, has a feature: an instruction set it has kernels for ("avx2", "avx512", "neon"), "cuda" and
 * "hip" (code for such GPUs, whether or not there is one), "fd" (opening models by file descriptor), "unwind" (defects become
 * `GROK1_ERR_PANIC`; without it they end the process). False for names that it does not know, and for NULL.
 */
GROK1_API
bool grok1_has(const char *feature);

/**
 * Makes a flag that is not set.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_cancel_new(struct grok1_cancel **cancel,
                              struct grok1_error **error);

/**
 * Asks every call that was given this flag to stop. One atomic store: allowed in a signal handler. NULL does nothing.
 */
GROK1_API
void grok1_cancel_set(const struct grok1_cancel *cancel);

/**
 * Takes the request back, so that the flag can be used again. One atomic store. NULL does nothing.
 */
GROK1_API void grok1_cancel_clear(const struct grok1_cancel *cancel);

/**
 * Whether a stop was asked for; false for NULL.
 */
GROK1_API bool grok1_cancel_is_set(const struct grok1_cancel *cancel);

/**
 * Frees a flag. NULL is fine.
 */
GROK1_API void grok1_cancel_free(struct grok1_cancel *cancel);

/**
 * Fills `control`, which has `size` bytes (`sizeof *control`), with the defaults. NULL does nothing.
 */
GROK1_API void grok1_control_init(struct grok1_control *control, size_t size);

/**
 * Opens the model at `path`: a folder, or a file of any format that is known (xAI's `ckpt-0`, GGUF, safetensors). `tokenizer` is the
 * path of a SentencePiece `tokenizer.model` to use instead of the one in or beside the model, or NULL.
 *
 * Returns `GROK1_ERR_FORMAT` if it is missing or no model, `GROK1_ERR_RESOURCE` if it cannot be read.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_checkpoint_open(const char *path,
                                   const char *tokenizer,
                                   struct grok1_checkpoint **checkpoint,
                                   struct grok1_error **error);

/**
 * Opens the model whose files are `sources`, an array of `count` that `grok1_source_init` was called for: all files of one model,
 * `tokenizer.model` and `config.json` included where it has them.
 *
 * Returns `GROK1_ERR_FORMAT` if they are no model, `GROK1_ERR_RESOURCE` if one cannot be read, `GROK1_ERR_UNSUPPORTED` for a file
 * descriptor on a system without them. After an error no source is released.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_checkpoint_open_sources(const struct grok1_source *sources,
                                           size_t count,
                                           struct grok1_checkpoint **checkpoint,
                                           struct grok1_error **error);

/**
 * A model of random weights, without files and without a tokenizer: to know how fast a machine is before 318 GB are there.
 * `spec` says which, as in "layers=2,type=q4_k,seed=7"; the keys are layers, width, heads, kv_heads, head_dim, experts, selected,
 * ffn, vocab, context, type, head_type and seed, and what is left out is as in Grok-1.
 *
 * Returns `GROK1_ERR_ARGUMENT` for a text that is not of that form, or sizes that cannot be.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_checkpoint_synthetic(const char *spec,
                                        struct grok1_checkpoint **checkpoint,
                                        struct grok1_error **error);

/**
 * Loads a model from what was opened. `options` may be NULL, and so may `control`; the `tokenizer` of the options is not used: the
 * checkpoint has its own.
 *
 * Returns `GROK1_ERR_FORMAT` for weights or a tokenizer that do not belong together, `GROK1_ERR_RESOURCE` if memory, threads, the
 * disk or the device refuse, `GROK1_ERR_CANCELLED`, and `GROK1_ERR_ARGUMENT` for options out of range.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_checkpoint_load(const struct grok1_checkpoint *checkpoint,
                                   const struct grok1_model_options *options,
                                   const struct grok1_control *control,
                                   struct grok1_model **model,
                                   struct grok1_error **error);

/**
 * Fills `info`, which has `size` bytes (`sizeof *info`).
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_checkpoint_get_info(const struct grok1_checkpoint *checkpoint,
                                       struct grok1_checkpoint_info *info,
                                       size_t size,
                                       struct grok1_error **error);

/**
 * Fills `tensor`, which has `size` bytes (`sizeof *tensor`), with number `index` of the stored tensors, in file order.
 *
 * Returns `GROK1_ERR_ARGUMENT` if there are not so many.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_checkpoint_get_tensor(const struct grok1_checkpoint *checkpoint,
                                         size_t index,
                                         struct grok1_tensor *tensor,
                                         size_t size,
                                         struct grok1_error **error);

/**
 * Fills `config`, which has `size` bytes (`sizeof *config`).
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_checkpoint_get_config(const struct grok1_checkpoint *checkpoint,
                                         struct grok1_config *config,
                                         size_t size,
                                         struct grok1_error **error);

/**
 * Frees a checkpoint. NULL is fine.
 */
GROK1_API void grok1_checkpoint_free(struct grok1_checkpoint *checkpoint);

/**
 * Fills `source`, which has `size` bytes (`sizeof *source`), with the defaults: no callbacks, no descriptor. NULL does nothing.
 */
GROK1_API
void grok1_source_init(struct grok1_source *source,
                       size_t size);

/**
 * Fills `options`, which has `size` bytes (`sizeof *options`), with the defaults. NULL does nothing.
 */
GROK1_API void grok1_model_options_init(struct grok1_model_options *options, size_t size);

/**
 * Opens and loads the model at `path`: a folder, or a file of any format that `grok1_checkpoint_open` knows. `options` and `control`
 * may be NULL.
 *
 * Returns `GROK1_ERR_FORMAT` if it is missing or no model, `GROK1_ERR_RESOURCE` if it cannot be read or memory, threads or the device
 * refuse, `GROK1_ERR_CANCELLED`, and `GROK1_ERR_ARGUMENT` for options out of range.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_model_load(const char *path,
                              const struct grok1_model_options *options,
                              const struct grok1_control *control,
                              struct grok1_model **model,
                              struct grok1_error **error);

/**
 * Fills `info`, which has `size` bytes (`sizeof *info`).
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_model_get_info(const struct grok1_model *model,
                                  struct grok1_model_info *info,
                                  size_t size,
                                  struct grok1_error **error);

/**
 * Fills `config`, which has `size` bytes (`sizeof *config`), with the hyperparameters.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_model_get_config(const struct grok1_model *model,
                                    struct grok1_config *config,
                                    size_t size,
                                    struct grok1_error **error);

/**
 * What the model was loaded from, for its tensors; its vocabulary has become the tokenizer. The caller frees it.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_model_get_checkpoint(const struct grok1_model *model,
                                        struct grok1_checkpoint **checkpoint,
                                        struct grok1_error **error);

/**
 * The model's tokenizer. The caller frees it.
 *
 * Returns `GROK1_ERR_ARGUMENT` if the model has none.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_model_get_tokenizer(const struct grok1_model *model,
                                       struct grok1_tokenizer **tokenizer,
                                       struct grok1_error **error);

/**
 * Gives the memory of keys and values that no session uses back to the operating system. Otherwise it is kept for the next session.
 * `control` may be NULL.
 *
 * Returns `GROK1_ERR_CANCELLED` if it was cancelled while it waited for a run to end.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_model_trim(const struct grok1_model *model,
                              const struct grok1_control *control,
                              struct grok1_error **error);

/**
 * Frees a model. NULL is fine.
 */
GROK1_API void grok1_model_free(struct grok1_model *model);

/**
 * Fills `pool`, which has `size` bytes (`sizeof *pool`), with the defaults: a width of 1 and nothing to run with. NULL does nothing.
 */
GROK1_API
void grok1_pool_init(struct grok1_pool *pool,
                     size_t size);

/**
 * Fills `entry`, which has `size` bytes (`sizeof *entry`), with the defaults. NULL does nothing.
 */
GROK1_API void grok1_entry_init(struct grok1_entry *entry, size_t size);

/**
 * Runs tokens of any number of sessions of `model` together: prompts, single tokens and verification of drafts alike. `entries` is an
 * array of `count` that `grok1_entry_init` was called for. `control` may be NULL.
 *
 * All or nothing: after an error every session is as it was, and `grok1_error_entry` says which entry was at fault.
 *
 * Returns `GROK1_ERR_ARGUMENT` for a session that is NULL, of another model or in two entries, for no tokens or one that the model does
 * not have, and for a sink or a sampler that is missing; `GROK1_ERR_BUSY`, `GROK1_ERR_CONTEXT_FULL`, `GROK1_ERR_KV_FULL`,
 * `GROK1_ERR_CANCELLED`, and `GROK1_ERR_RESOURCE` if a device refuses.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_run(const struct grok1_model *model,
                       const struct grok1_entry *entries,
                       size_t count,
                       const struct grok1_control *control,
                       struct grok1_error **error);

/**
 * Fills `options`, which has `size` bytes (`sizeof *options`), with the defaults. NULL does nothing.
 */
GROK1_API void grok1_session_options_init(struct grok1_session_options *options, size_t size);

/**
 * Makes an empty session. `options` may be NULL.
 *
 * Returns `GROK1_ERR_ARGUMENT` for a context of more positions than the model was trained for, unless the options allow it.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_session_new(const struct grok1_model *model,
                               const struct grok1_session_options *options,
                               struct grok1_session **session,
                               struct grok1_error **error);

/**
 * Runs `count` tokens, and those that wait before them; the logits of the last one are `grok1_session_logits` then. `control` may be
 * NULL. All or nothing: after an error the session is as it was.
 *
 * Returns `GROK1_ERR_ARGUMENT` for no tokens or one that the model does not have, `GROK1_ERR_CONTEXT_FULL`, `GROK1_ERR_KV_FULL`,
 * `GROK1_ERR_CANCELLED`, `GROK1_ERR_RESOURCE` if a device refuses.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_session_feed(struct grok1_session *session,
                                const uint32_t *tokens,
                                size_t count,
                                const struct grok1_control *control,
                                struct grok1_error **error);

/**
 * Appends `count` tokens without running them: the next run begins with them, and checks whether the model has them.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_session_push(struct grok1_session *session,
                                const uint32_t *tokens,
                                size_t count,
                                struct grok1_error **error);

/**
 * Appends text of `len` bytes without running it. Text that begins a session is encoded as SentencePiece does; later text goes on
 * where the session's ends.
 *
 * Returns `GROK1_ERR_UTF8`, and `GROK1_ERR_ARGUMENT` if the model has no tokenizer.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_session_push_text(struct grok1_session *session,
                                     const char *text,
                                     size_t len,
                                     struct grok1_error **error);

/**
 * Runs `count` tokens and writes to `scores`, which has room for as many, the natural logarithm of each one's probability after all
 * that came before it. The first one is NaN if there is nothing to predict it from. `control` may be NULL.
 *
 * Fails as `grok1_session_feed` does.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_session_score(struct grok1_session *session,
                                 const uint32_t *tokens,
                                 size_t count,
                                 float *scores,
                                 const struct grok1_control *control,
                                 struct grok1_error **error);

/**
 * Logits of the last token, `*len` of them (the model's vocabulary), if the last run asked for them and nothing was pushed since;
 * otherwise NULL and 0. NULL too while another call uses the session. They stay until the session is used again.
 */
GROK1_API
const float *grok1_session_logits(const struct grok1_session *session,
                                  size_t *len);

/**
 * Copies all tokens, those that wait included: the form that is called twice.
 *
 * Returns `GROK1_ERR_BUFFER` if they do not fit.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_session_tokens(const struct grok1_session *session,
                                  uint32_t *tokens,
                                  size_t capacity,
                                  size_t *needed,
                                  struct grok1_error **error);

/**
 * Forgets all tokens from number `len` on.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_session_truncate(struct grok1_session *session,
                                    size_t len,
                                    struct grok1_error **error);

/**
 * Makes a session with the same past. Keys and values are shared until one of the two goes on.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_session_fork(const struct grok1_session *session,
                                struct grok1_session **fork,
                                struct grok1_error **error);

/**
 * Fills `info`, which has `size` bytes (`sizeof *info`). A poisoned session has one too.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_session_get_info(const struct grok1_session *session,
                                    struct grok1_session_info *info,
                                    size_t size,
                                    struct grok1_error **error);

/**
 * Frees a session. NULL is fine.
 */
GROK1_API void grok1_session_free(struct grok1_session *session);

/**
 * Writes the session, and the state of `sampler` if that is not NULL, so that `grok1_session_restore` can go on exactly here. Bytes go
 * to `write`, many at a time. `control` may be NULL.
 *
 * Returns `GROK1_ERR_RESOURCE` if `write` failed, `GROK1_ERR_CANCELLED`.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_session_save(const struct grok1_session *session,
                                const struct grok1_sampler *sampler,
                                grok1_write_fn write,
                                void *user,
                                const struct grok1_control *control,
                                struct grok1_error **error);

/**
 * Reads a session that `grok1_session_save` wrote from the same model, and its sampler's state if `sampler` is not NULL: `*sampler` is
 * NULL if none was saved, and has no filter otherwise. Asks `read` for the bytes of the saved session and no more. `options` and
 * `control` may be NULL; the context is that of the options or, if it is 0 there, the saved session's.
 *
 * Returns `GROK1_ERR_FORMAT` for bytes that are truncated, changed, of another model or of another KV type, `GROK1_ERR_RESOURCE` if `read`
 * failed, `GROK1_ERR_ARGUMENT` for a context longer than the model was trained for, unless the options allow it, `GROK1_ERR_KV_FULL`,
 * `GROK1_ERR_CANCELLED`.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_session_restore(const struct grok1_model *model,
                                   grok1_read_fn read,
                                   void *user,
                                   const struct grok1_session_options *options,
                                   const struct grok1_control *control,
                                   struct grok1_session **session,
                                   struct grok1_sampler **sampler,
                                   struct grok1_error **error);

/**
 * Fills `options`, which has `size` bytes (`sizeof *options`), with the defaults. NULL does nothing.
 */
GROK1_API void grok1_sampler_options_init(struct grok1_sampler_options *options, size_t size);

/**
 * Makes a sampler. `options` may be NULL.
 *
 * Returns `GROK1_ERR_ARGUMENT` for a setting out of range.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_sampler_new(const struct grok1_sampler_options *options,
                               struct grok1_sampler **sampler,
                               struct grok1_error **error);

/**
 * Makes a sampler that goes on independently from the same state; a filter is shared.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_sampler_clone(const struct grok1_sampler *sampler,
                                 struct grok1_sampler **clone,
                                 struct grok1_error **error);

/**
 * Calls `filter` for each token, after bias, allowed tokens and penalties, in place of the filter set before. It is not part of a saved
 * sampler; clones share it, and `user` must live as long as all of them.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_sampler_set_filter(struct grok1_sampler *sampler,
                                      grok1_filter_fn filter,
                                      void *user,
                                      struct grok1_error **error);

/**
 * Chooses the token that follows `history` from `logits`, one per token of the vocabulary, and fills `sampled`, which has `size` bytes
 * (`sizeof *sampled`). What that points to stays until the sampler is used again. Generations sample by themselves: this is for logits
 * from elsewhere.
 *
 * Returns `GROK1_ERR_ARGUMENT` if every token is excluded, the filter made NaN or +infinity, or a setting names a token that is not there;
 * `GROK1_ERR_FORMAT` if the logits themselves have NaN or +infinity.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_sampler_sample(struct grok1_sampler *sampler,
                                  const float *logits,
                                  size_t n_logits,
                                  const uint32_t *history,
                                  size_t n_history,
                                  struct grok1_sampled *sampled,
                                  size_t size,
                                  struct grok1_error **error);

/**
 * The tokens that `grok1_sampler_sample` would draw from and, at the same places, their probabilities, in the order of ids: the form that
 * is called twice, with two buffers of `capacity`. Draws nothing.
 *
 * Fails as `grok1_sampler_sample` does, and with `GROK1_ERR_BUFFER` if they do not fit.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_sampler_distribution(struct grok1_sampler *sampler,
                                        const float *logits,
                                        size_t n_logits,
                                        const uint32_t *history,
                                        size_t n_history,
                                        uint32_t *tokens,
                                        double *probabilities,
                                        size_t capacity,
                                        size_t *needed,
                                        struct grok1_error **error);

/**
 * Natural logarithm of a token's probability under the softmax of `count` logits: what `grok1_session_score` writes, for rows of
 * `GROK1_WANT_ALL`. NaN if a logit is, for a token beyond them, and for NULL.
 */
GROK1_API
float grok1_log_probability(const float *logits,
                            size_t count,
                            uint32_t token);

/**
 * How many tokens were drawn, which is the number of the next draw, in `*draws`.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_sampler_draws(const struct grok1_sampler *sampler,
                                 uint64_t *draws,
                                 struct grok1_error **error);

/**
 * Goes on as if `draws` tokens had been drawn: 0 starts over.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_sampler_set_draws(struct grok1_sampler *sampler,
                                     uint64_t draws,
                                     struct grok1_error **error);

/**
 * Writes the sampler's settings and state, without its filter, to `data`: the form that is called twice.
 *
 * Returns `GROK1_ERR_BUFFER` if they do not fit.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_sampler_save(const struct grok1_sampler *sampler,
                                uint8_t *data,
                                size_t capacity,
                                size_t *needed,
                                struct grok1_error **error);

/**
 * Makes a sampler from what `grok1_sampler_save` wrote.
 *
 * Returns `GROK1_ERR_FORMAT` if that is not what the bytes are.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_sampler_restore(const uint8_t *data,
                                   size_t len,
                                   struct grok1_sampler **sampler,
                                   struct grok1_error **error);

/**
 * Frees a sampler. NULL is fine.
 */
GROK1_API void grok1_sampler_free(struct grok1_sampler *sampler);

/**
 * Fills `options`, which has `size` bytes (`sizeof *options`), with the defaults. NULL does nothing.
 */
GROK1_API void grok1_generation_options_init(struct grok1_generation_options *options, size_t size);

/**
 * Makes a generation. `options` may be NULL. An empty stop string is refused with the first token.
 *
 * Returns `GROK1_ERR_UTF8` for a stop string.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_generation_new(const struct grok1_generation_options *options,
                                  struct grok1_generation **generation,
                                  struct grok1_error **error);

/**
 * Samples the next token from the session's logits, pushes it to the session, and fills `token`, which has `size` bytes (`sizeof *token`):
 * for sessions that `grok1_run` runs.
 *
 * Returns `GROK1_ERR_ENDED` after the last token, `GROK1_ERR_ARGUMENT` if the session has no logits or there are stop strings but no
 * tokenizer, and what `grok1_sampler_sample` returns. Nothing was changed then.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_generation_accept(struct grok1_generation *generation,
                                     struct grok1_session *session,
                                     struct grok1_sampler *sampler,
                                     struct grok1_token *token,
                                     size_t size,
                                     struct grok1_error **error);

/**
 * Runs what waits in the session, if it has no logits, then samples a token as `grok1_generation_accept` does: generating step by step.
 * `control` may be NULL. After `GROK1_ERR_CANCELLED` calling it again goes on.
 *
 * Returns `GROK1_ERR_ENDED` after the last token; otherwise fails as `grok1_session_feed` and `grok1_generation_accept` do.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_generation_next(struct grok1_generation *generation,
                                   struct grok1_session *session,
                                   struct grok1_sampler *sampler,
                                   const struct grok1_control *control,
                                   struct grok1_token *token,
                                   size_t size,
                                   struct grok1_error **error);

/**
 * Generates to the end: calls `on_token` for each token that `grok1_generation_next` would give. `control` may be NULL.
 *
 * Returns `GROK1_OK` when the generation has ended, `GROK1_ERR_CANCELLED` if `on_token` stopped it: calling it again goes on with the next
 * token. Otherwise fails as `grok1_generation_next` does.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_generation_run(struct grok1_generation *generation,
                                  struct grok1_session *session,
                                  struct grok1_sampler *sampler,
                                  grok1_token_fn on_token,
                                  void *user,
                                  const struct grok1_control *control,
                                  struct grok1_error **error);

/**
 * Fills `info`, which has `size` bytes (`sizeof *info`).
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_generation_get_info(const struct grok1_generation *generation,
                                       struct grok1_generation_info *info,
                                       size_t size,
                                       struct grok1_error **error);

/**
 * Frees a generation. NULL is fine.
 */
GROK1_API void grok1_generation_free(struct grok1_generation *generation);

/**
 * Reads a SentencePiece `tokenizer.model`.
 *
 * Returns `GROK1_ERR_FORMAT` if it is missing or none that Grok-1's kind of tokenizer can use, `GROK1_ERR_RESOURCE` if it cannot be read.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_tokenizer_open(const char *path,
                                  struct grok1_tokenizer **tokenizer,
                                  struct grok1_error **error);

/**
 * Encodes text of `len` bytes: the form that is called twice. `continuation` is 0 for text that begins a sequence; other text goes on
 * where text ended, and gets no space in front.
 *
 * Returns `GROK1_ERR_UTF8`, and `GROK1_ERR_BUFFER` if the tokens do not fit.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_tokenizer_encode(const struct grok1_tokenizer *tokenizer,
                                    const char *text,
                                    size_t len,
                                    int32_t continuation,
                                    uint32_t *tokens,
                                    size_t capacity,
                                    size_t *needed,
                                    struct grok1_error **error);

/**
 * Decodes `count` tokens that begin a text, to UTF-8 without NUL at its end: the form that is called twice. A byte that belongs to no
 * character becomes U+FFFD. For tokens as they come there is `grok1_text_stream`.
 *
 * Returns `GROK1_ERR_ARGUMENT` for a token that is not there, `GROK1_ERR_BUFFER` if the text does not fit.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_tokenizer_decode(const struct grok1_tokenizer *tokenizer,
                                    const uint32_t *tokens,
                                    size_t count,
                                    char *text,
                                    size_t capacity,
                                    size_t *needed,
                                    struct grok1_error **error);

/**
 * The bytes that a token adds to text, which for a byte may be a part of a character, and for control tokens are none: the form that is
 * called twice.
 *
 * Returns `GROK1_ERR_ARGUMENT` for a token that is not there, `GROK1_ERR_BUFFER` if the bytes do not fit.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_tokenizer_token_bytes(const struct grok1_tokenizer *tokenizer,
                                         uint32_t token,
                                         char *bytes,
                                         size_t capacity,
                                         size_t *needed,
                                         struct grok1_error **error);

/**
 * The piece of a token as stored, NUL-terminated: U+2581 stands for a space, bytes are written `<0x0A>`. NULL if there is no such token,
 * and for NULL. Lives as long as the tokenizer.
 */
GROK1_API
const char *grok1_tokenizer_piece(const struct grok1_tokenizer *tokenizer,
                                  uint32_t token);

/**
 * What a token is for: `GROK1_TOKEN_...`; 0 if there is no such token, and for NULL.
 */
GROK1_API int32_t grok1_tokenizer_kind(const struct grok1_tokenizer *tokenizer, uint32_t token);

/**
 * The token of a piece as stored, of `len` bytes, special ones (`[EOS]`) included; `GROK1_NO_TOKEN` if there is none, if it is not UTF-8,
 * and for NULL.
 */
GROK1_API
uint32_t grok1_tokenizer_find(const struct grok1_tokenizer *tokenizer,
                              const char *piece,
                              size_t len);

/**
 * Fills `info`, which has `size` bytes (`sizeof *info`).
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_tokenizer_get_info(const struct grok1_tokenizer *tokenizer,
                                      struct grok1_tokenizer_info *info,
                                      size_t size,
                                      struct grok1_error **error);

/**
 * Frees a tokenizer. NULL is fine.
 */
GROK1_API void grok1_tokenizer_free(struct grok1_tokenizer *tokenizer);

/**
 * Makes a text stream that ends at any of the `n_stop` strings of `stop`. `continuation` is 0 for tokens that begin a text; others go on
 * where text ended, and keep their space.
 *
 * Returns `GROK1_ERR_UTF8`, and `GROK1_ERR_ARGUMENT` for an empty stop string.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_text_stream_new(const struct grok1_tokenizer *tokenizer,
                                   int32_t continuation,
                                   const struct grok1_text *stop,
                                   size_t n_stop,
                                   struct grok1_text_stream **stream,
                                   struct grok1_error **error);

/**
 * Takes a token and gives the text that it makes certain, often none, in `*text`, which has `*len` bytes and stays until the stream is
 * used again. After a stop string there is none any more.
 *
 * Returns `GROK1_ERR_ARGUMENT` for a token that is not there.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_text_stream_push(struct grok1_text_stream *stream,
                                    uint32_t token,
                                    const char **text,
                                    size_t *len,
                                    struct grok1_error **error);

/**
 * Gives the text that was held back, when no more tokens come, as `grok1_text_stream_push` does: U+FFFD for each byte of an incomplete
 * character.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_text_stream_finish(struct grok1_text_stream *stream,
                                      const char **text,
                                      size_t *len,
                                      struct grok1_error **error);

/**
 * The stop string that ended the text, by its place among those given, from 0; `GROK1_NO_STOP` if none did, while another call uses the
 * stream, and for NULL.
 */
GROK1_API
size_t grok1_text_stream_stopped(const struct grok1_text_stream *stream);

/**
 * Frees a text stream. NULL is fine.
 */
GROK1_API void grok1_text_stream_free(struct grok1_text_stream *stream);

/**
 * Fills `options`, which has `size` bytes (`sizeof *options`), with the defaults. NULL does nothing.
 */
GROK1_API void grok1_plan_options_init(struct grok1_plan_options *options, size_t size);

/**
 * Plans for a checkpoint. Reads nothing. `options` may be NULL.
 *
 * Returns `GROK1_ERR_ARGUMENT` for a description of a device that is none.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_checkpoint_plan(const struct grok1_checkpoint *checkpoint,
                                   const struct grok1_plan_options *options,
                                   struct grok1_plan **plan,
                                   struct grok1_error **error);

/**
 * Fills `info`, which has `size` bytes (`sizeof *info`).
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_plan_get_info(const struct grok1_plan *plan,
                                 struct grok1_plan_info *info,
                                 size_t size,
                                 struct grok1_error **error);

/**
 * Fills `share`, which has `size` bytes (`sizeof *share`), with number `index` of the shares.
 *
 * Returns `GROK1_ERR_ARGUMENT` if there are not so many.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_plan_get_share(const struct grok1_plan *plan,
                                  size_t index,
                                  struct grok1_plan_share *share,
                                  size_t size,
                                  struct grok1_error **error);

/**
 * Fills `place`, which has `size` bytes (`sizeof *place`), with number `index` of the places.
 *
 * Returns `GROK1_ERR_ARGUMENT` if there are not so many.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_plan_get_place(const struct grok1_plan *plan,
                                  size_t index,
                                  struct grok1_plan_place *place,
                                  size_t size,
                                  struct grok1_error **error);

/**
 * Frees a plan. NULL is fine.
 */
GROK1_API void grok1_plan_free(struct grok1_plan *plan);

/**
 * Fills `device`, which has `size` bytes (`sizeof *device`), with number `index` of the devices that descriptions can name without their
 * figures.
 *
 * Returns `GROK1_ERR_ARGUMENT` if there are not so many.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_known_device(size_t index,
                                struct grok1_device *device,
                                size_t size,
                                struct grok1_error **error);

/**
 * Fills `options`, which has `size` bytes (`sizeof *options`), with the defaults. NULL does nothing.
 */
GROK1_API void grok1_conversion_options_init(struct grok1_conversion_options *options, size_t size);

/**
 * Name number `index` of the recipes for GGUF: "q8_0", "q4_k_m"; NULL if there are not so many. Lives as long as the process.
 */
GROK1_API
const char *grok1_recipe_name(size_t index);

/**
 * Prepares to convert a checkpoint.
 *
 * Returns `GROK1_ERR_ARGUMENT` for a recipe or an exception that is none, and for GGUF without a recipe.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_conversion_new(const struct grok1_checkpoint *checkpoint,
                                  const struct grok1_conversion_options *options,
                                  struct grok1_conversion **conversion,
                                  struct grok1_error **error);

/**
 * Writes the model to `path`: a file, the first part of the names of several, or a folder. Nothing of that name may be there. What is not
 * whole yet stands in "path.partial"; after an error, a cancellation included, calling this again goes on. Fills `report`, which has `size`
 * bytes (`sizeof *report`). `control` may be NULL.
 *
 * Returns `GROK1_ERR_ARGUMENT` if something of that name is there, `GROK1_ERR_FORMAT` for weights that cannot be written so,
 * `GROK1_ERR_RESOURCE` if the disk has no room or refuses, `GROK1_ERR_CANCELLED`.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_conversion_run(struct grok1_conversion *conversion,
                                  const char *path,
                                  const struct grok1_control *control,
                                  struct grok1_conversion_report *report,
                                  size_t size,
                                  struct grok1_error **error);

/**
 * Path of number `index` of the files that the last run wrote, the first of which opens the model; NULL if there are not so many, while
 * another call uses the conversion, and for NULL. Lives until the conversion runs again or is freed.
 */
GROK1_API
const char *grok1_conversion_file(const struct grok1_conversion *conversion,
                                  size_t index);

/**
 * Makes everything again, compares it with what stands at `path`, and fills `verification`, which has `size` bytes (`sizeof *verification`).
 * `control` may be NULL.
 *
 * Returns `GROK1_ERR_FORMAT` if a byte differs or a file is missing, `GROK1_ERR_RESOURCE` if one cannot be read, `GROK1_ERR_CANCELLED`.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_conversion_verify(struct grok1_conversion *conversion,
                                     const char *path,
                                     const struct grok1_control *control,
                                     struct grok1_verification *verification,
                                     size_t size,
                                     struct grok1_error **error);

/**
 * How far the matrices of type number `index` are from the checkpoint's, as the last `grok1_conversion_verify` found: the type's name in
 * `*dtype`, which lives until the conversion is used again, and in `*deviation` the root of the mean square of the differences in units of
 * that of the weights.
 *
 * Returns `GROK1_ERR_ARGUMENT` if there are not so many.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_conversion_deviation(const struct grok1_conversion *conversion,
                                        size_t index,
                                        const char **dtype,
                                        double *deviation,
                                        struct grok1_error **error);

/**
 * Frees a conversion. NULL is fine.
 */
GROK1_API void grok1_conversion_free(struct grok1_conversion *conversion);

/**
 * Hands messages up to `max_level` (`GROK1_LOG_...`) to `log`, in place of the callback before; NULL for silence, which is what there is
 * at first. For the whole process. When this returns, the callback before is not running and will not be called again.
 *
 * Returns `GROK1_ERR_ARGUMENT` for another level, `GROK1_ERR_BUSY` within a log callback, and `GROK1_ERR_UNSUPPORTED` in a Rust program that
 * has a logger of its own, which gets the messages already.
 */
GROK1_API
GROK1_NODISCARD
grok1_status grok1_set_log(grok1_log_fn log,
                           void *user,
                           int32_t max_level,
                           struct grok1_error **error);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* GROK1_H */
