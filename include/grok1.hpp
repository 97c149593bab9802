// grok1 for C++17 and later: all of grok1.h with RAII, ranges, views and exceptions. Nothing but a header; link what grok1.h links.
//
//     grok1::model model("checkpoints/ckpt-0");
//     grok1::session session(model);
//     grok1::sampler_options options;
//     options.temperature = 0.7f;
//     grok1::sampler sampler(options);
//     for (const auto &piece : session.generate("The answer to life", sampler))
//         std::cout << piece.text();
//
// grok1.h is the manual: what a function does, returns and demands stands there. What holds for this header:
//
// Handles own what they were made for and can be moved, not copied. `get` gives C's pointer; one that is moved from, or whose making
// failed, is empty (`!handle`), and every function answers GROK1_ERR_ARGUMENT for it.
//
// Failures. The last parameter of all that can fail is a pointer to a `grok1::error`. Left out, failures are thrown as `grok1::error`;
// given, they are put there, what is returned is empty, and nothing is thrown. Compiled without exceptions, a failure that is not asked
// for ends the program.
//
// Options are C's structs with their defaults filled in; vectors and strings stand in the place of pointers and counts, and an empty
// one is NULL. Infos are C's structs, and so is the life of what they point to.
//
// Callbacks may throw: the call stops as if they had asked for it, and throws their exception on. Those that come from any thread
// (reading a source, the log) are the exception to that: there it is a failed read, or ignored. Callbacks and what they refer to must
// live as long as the call, unless a type here says that it keeps them.
#ifndef GROK1_HPP
#define GROK1_HPP

#include "grok1.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace grok1 {

/// A view of values that lie one after the other: std::span, for C++17.
template <class T>
class span {
public:
    constexpr span() noexcept = default;
    constexpr span(T *data, std::size_t size) noexcept : data_(data), size_(size) {}
    /// Of anything with `data()` and `size()`.
    template <class C, class = std::enable_if_t<std::is_convertible_v<decltype(std::declval<C &>().data()), T *>>>
    constexpr span(C &&values) noexcept : data_(values.data()), size_(values.size()) {}

    constexpr T *data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }
    constexpr bool empty() const noexcept { return size_ == 0; }
    constexpr T *begin() const noexcept { return data_; }
    constexpr T *end() const noexcept { return data_ + size_; }
    constexpr T &operator[](std::size_t index) const noexcept { return data_[index]; }

private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};

using token_id = std::uint32_t;

/// A status, and for people the error with all its causes. Without a failure it is false and its status GROK1_OK.
class error : public std::exception {
public:
    error() noexcept = default;
    /// Takes ownership of C's pointer.
    explicit error(grok1_error *raw) : raw_(raw, grok1_error_free) {}

    grok1_status status() const noexcept { return grok1_error_status(raw_.get()); }
    /// The status' name.
    const char *name() const noexcept { return grok1_status_name(status()); }
    const char *what() const noexcept override { return grok1_error_message(raw_.get()); }
    /// The index of the entry of `model::run` that was at fault.
    std::optional<std::size_t> entry() const noexcept
    {
        const std::size_t entry = grok1_error_entry(raw_.get());
        return entry == GROK1_NO_ENTRY ? std::nullopt : std::optional(entry);
    }
    explicit operator bool() const noexcept { return raw_ != nullptr; }

private:
    std::shared_ptr<grok1_error> raw_;
};

namespace detail {

template <class T, void (*Free)(T *)>
class handle {
public:
    /// Takes ownership of C's pointer.
    explicit handle(T *raw) noexcept : raw_(raw) {}

    T *get() const noexcept { return raw_.get(); }
    /// Gives ownership away.
    T *release() noexcept { return raw_.release(); }
    explicit operator bool() const noexcept { return raw_ != nullptr; }

private:
    struct deleter {
        void operator()(T *raw) const noexcept { Free(raw); }
    };
    std::unique_ptr<T, deleter> raw_;

    template <class Handle, class F, class... Arguments>
    friend Handle make(error *, F, Arguments...);
    using raw_type = T;
};

/// C's struct with its defaults.
template <class C, void (*Init)(C *, std::size_t)>
struct options : C {
    options() noexcept : C() { Init(this, sizeof(C)); }
};

#if defined(__cpp_exceptions)

/// What a callback threw on this thread, until the call that it came from has returned.
inline std::exception_ptr &thrown() noexcept
{
    static thread_local std::exception_ptr exception;
    return exception;
}

/// Calls a host's function; `failed` if it throws.
template <class F, class R>
R guarded(F call, R failed) noexcept
{
    try {
        return call();
    } catch (...) {
        thrown() = std::current_exception();
        return failed;
    }
}

/// The same, for functions that come from any thread.
template <class F, class R>
R silent(F call, R failed) noexcept
{
    try {
        return call();
    } catch (...) {
        return failed;
    }
}

inline void rethrow()
{
    if (thrown())
        std::rethrow_exception(std::exchange(thrown(), nullptr));
}

[[noreturn]] inline void raise(const error &failure) { throw failure; }

#else

template <class F, class R>
R guarded(F call, R) noexcept { return call(); }
template <class F, class R>
R silent(F call, R) noexcept { return call(); }
inline void rethrow() {}
[[noreturn]] inline void raise(const error &) { std::terminate(); }

#endif

/// Ends a call: hands on what its callbacks threw and what it failed with. `usual` is a status that is no failure.
inline void finish(grok1_error *raw, error *failed, grok1_status usual = GROK1_OK)
{
    error failure = raw ? error(raw) : error();
    rethrow();
    if (failure && failure.status() == usual)
        failure = error();
    if (failed)
        *failed = std::move(failure);
    else if (failure)
        raise(failure);
}

/// Calls a function of grok1.h, whose last parameter is the error; `usual` is a status that is an answer rather than a failure.
template <class F, class... Arguments>
grok1_status ask(grok1_status usual, error *failed, F f, Arguments... arguments)
{
    grok1_error *raw = nullptr;
    const grok1_status status = f(arguments..., &raw);
    finish(raw, failed, usual);
    return status;
}

template <class F, class... Arguments>
grok1_status call(error *failed, F f, Arguments... arguments)
{
    return ask(GROK1_OK, failed, f, arguments...);
}

/// The same for a function that makes a handle.
template <class Handle, class F, class... Arguments>
Handle make(error *failed, F f, Arguments... arguments)
{
    typename Handle::raw_type *made = nullptr;
    grok1_error *raw = nullptr;
    [[maybe_unused]] const grok1_status status = f(arguments..., &made, &raw);
    Handle handle(made);
    finish(raw, failed);
    return handle;
}

/// The same for a function that fills a struct.
template <class Info, class F, class... Arguments>
Info info(error *failed, F f, Arguments... arguments)
{
    Info info{};
    call(failed, f, arguments..., &info, sizeof info);
    return info;
}

/// The same for structs that are numbered.
template <class Info, class F, class T>
std::vector<Info> infos(error *failed, std::size_t count, F f, const T *of)
{
    std::vector<Info> all;
    error failure;
    for (std::size_t index = 0; index < count && !failure; ++index)
        all.push_back(info<Info>(failed ? &failure : nullptr, f, of, index));
    if (failure)
        all.clear();
    if (failure && failed)
        *failed = failure;
    return all;
}

/// The same for a function that is called twice; what it writes has about `guess` elements.
template <class Buffer, class F, class... Arguments>
Buffer fill(error *failed, std::size_t guess, F f, Arguments... arguments)
{
    Buffer buffer(guess, 0);
    std::size_t needed = 0;
    if (ask(GROK1_ERR_BUFFER, failed, f, arguments..., buffer.data(), guess, &needed) == GROK1_ERR_BUFFER) {
        buffer.resize(needed);
        call(failed, f, arguments..., buffer.data(), needed, &needed);
    }
    buffer.resize(needed);
    return buffer;
}

inline const char *or_null(const std::string &text) noexcept { return text.empty() ? nullptr : text.c_str(); }

template <class T>
const T *or_null(const std::vector<T> &values) noexcept { return values.empty() ? nullptr : values.data(); }

inline std::vector<const char *> pointers(const std::vector<std::string> &strings)
{
    std::vector<const char *> all;
    for (const std::string &string : strings)
        all.push_back(string.c_str());
    return all;
}

inline std::vector<grok1_text> texts(const std::vector<std::string> &strings)
{
    std::vector<grok1_text> all;
    for (const std::string &string : strings)
        all.push_back({string.data(), string.size()});
    return all;
}

} // namespace detail

// ---- Versions ----

/// Of the library, which may be another than this header's.
inline const char *version() noexcept { return grok1_version(); }
inline std::uint32_t version_number() noexcept { return grok1_version_number(); }
/// Whether the library has the binary interface of this header.
inline bool compatible() noexcept { return grok1_abi_version() == GROK1_ABI_VERSION; }
inline bool has(const char *feature) noexcept { return grok1_has(feature); }

/// Natural logarithm of a token's probability under logits.
inline float log_probability(span<const float> logits, token_id token) noexcept
{
    return grok1_log_probability(logits.data(), logits.size(), token);
}

// ---- Stopping and watching long calls ----

/// A flag that stops the calls it was given to. `set` is allowed in a signal handler.
class cancel : public detail::handle<grok1_cancel, grok1_cancel_free> {
public:
    explicit cancel(error *failed = nullptr) : handle(detail::make<handle>(failed, grok1_cancel_new)) {}

    void set() const noexcept { grok1_cancel_set(get()); }
    void clear() const noexcept { grok1_cancel_clear(get()); }
    bool is_set() const noexcept { return grok1_cancel_is_set(get()); }
};

/// What a long call is stopped with, and tells how far it is. A `cancel *` is one, too.
struct control {
    /// Gets GROK1_TASK_..., done and total; false stops the call.
    using progress_fn = std::function<bool(std::int32_t task, std::uint64_t done, std::uint64_t total)>;

    const grok1::cancel *cancel = nullptr;
    progress_fn progress;

    control() = default;
    control(const grok1::cancel *stop, progress_fn watch = {}) : cancel(stop), progress(std::move(watch)) {}
};

namespace detail {

/// C's struct, for one call.
class c_control {
public:
    explicit c_control(const control &control) noexcept
    {
        grok1_control_init(&c_, sizeof c_);
        c_.cancel = control.cancel ? control.cancel->get() : nullptr;
        if (control.progress) {
            c_.progress = progress;
            c_.progress_user = const_cast<grok1::control *>(&control);
        }
    }
    const grok1_control *get() const noexcept { return &c_; }

private:
    static std::int32_t progress(void *user, std::int32_t task, std::uint64_t done, std::uint64_t total) noexcept
    {
        const auto &progress = static_cast<const control *>(user)->progress;
        return guarded([&] { return progress(task, done, total) ? GROK1_CONTINUE : GROK1_STOP; }, GROK1_STOP);
    }

    grok1_control c_;
};

} // namespace detail

/// A part of parallel work: `part(i)` runs number i.
class part {
public:
    part(grok1_part_fn run, void *context) noexcept : run_(run), context_(context) {}
    void operator()(std::size_t index) const noexcept { run_(context_, index); }

private:
    grok1_part_fn run_;
    void *context_;
};

/// The host's own threads. Must live as long as everything that was made with it.
class pool {
public:
    virtual ~pool() = default;
    /// How many threads work at once, the caller's included.
    virtual std::size_t width() const noexcept = 0;
    /// Calls `part` once for each number below `parts`, and returns when all have returned. Comes from any thread.
    virtual void run(std::size_t parts, part part) noexcept = 0;
};

namespace detail {

/// C's struct, for one call.
class c_pool {
public:
    explicit c_pool(pool *pool) noexcept : c_()
    {
        if (!pool)
            return;
        grok1_pool_init(&c_, sizeof c_);
        c_.width = pool->width();
        c_.run = run;
        c_.user = pool;
    }
    const grok1_pool *get() const noexcept { return c_.run ? &c_ : nullptr; }

private:
    static void run(void *user, std::size_t parts, grok1_part_fn run, void *context) noexcept
    {
        static_cast<pool *>(user)->run(parts, part(run, context));
    }

    grok1_pool c_;
};

} // namespace detail

// ---- Tokenizers ----

class model;

/// Text to tokens and back. May be used from any thread.
class tokenizer : public detail::handle<grok1_tokenizer, grok1_tokenizer_free> {
public:
    using handle::handle;
    explicit tokenizer(const std::string &path, error *failed = nullptr)
        : handle(detail::make<handle>(failed, grok1_tokenizer_open, path.c_str()))
    {
    }
    /// A model's own.
    explicit tokenizer(const model &model, error *failed = nullptr);

    /// `continuation`: goes on where text ended, and gets no space in front.
    std::vector<token_id> encode(std::string_view text, bool continuation = false, error *failed = nullptr) const
    {
        using buffer = std::vector<token_id>;
        return detail::fill<buffer>(
            failed, text.size() / 2 + 8, grok1_tokenizer_encode, get(), text.data(), text.size(), int(continuation));
    }
    std::string decode(span<const token_id> tokens, error *failed = nullptr) const
    {
        return detail::fill<std::string>(
            failed, tokens.size() * 6, grok1_tokenizer_decode, get(), tokens.data(), tokens.size());
    }
    /// The bytes that a token adds to text, which may be a part of a character.
    std::string token_bytes(token_id token, error *failed = nullptr) const
    {
        return detail::fill<std::string>(failed, 16, grok1_tokenizer_token_bytes, get(), token);
    }
    /// As stored; NULL if there is no such token.
    const char *piece(token_id token) const noexcept { return grok1_tokenizer_piece(get(), token); }
    /// GROK1_TOKEN_...; 0 if there is no such token.
    std::int32_t kind(token_id token) const noexcept { return grok1_tokenizer_kind(get(), token); }
    std::optional<token_id> find(std::string_view piece) const noexcept
    {
        const token_id token = grok1_tokenizer_find(get(), piece.data(), piece.size());
        return token == GROK1_NO_TOKEN ? std::nullopt : std::optional(token);
    }
    grok1_tokenizer_info info(error *failed = nullptr) const
    {
        return detail::info<grok1_tokenizer_info>(failed, grok1_tokenizer_get_info, get());
    }
};

/// Text from tokens as they come: whole characters, up to a stop string.
class text_stream : public detail::handle<grok1_text_stream, grok1_text_stream_free> {
public:
    using handle::handle;
    explicit text_stream(const tokenizer &tokenizer, bool continuation = false,
                         const std::vector<std::string> &stop = {}, error *failed = nullptr)
        : handle(make(tokenizer, continuation, detail::texts(stop), failed))
    {
    }

    /// The text that the token makes certain; valid until the stream is used again.
    std::string_view push(token_id token, error *failed = nullptr)
    {
        return text(failed, grok1_text_stream_push, get(), token);
    }
    /// The text that was held back, when no more tokens come.
    std::string_view finish(error *failed = nullptr) { return text(failed, grok1_text_stream_finish, get()); }
    /// The stop string that ended the text, by its number.
    std::optional<std::size_t> stopped() const noexcept
    {
        const std::size_t stop = grok1_text_stream_stopped(get());
        return stop == GROK1_NO_STOP ? std::nullopt : std::optional(stop);
    }

private:
    static handle make(const tokenizer &tokenizer, bool continuation, const std::vector<grok1_text> &stop, error *failed)
    {
        return detail::make<handle>(
            failed, grok1_text_stream_new, tokenizer.get(), int(continuation), stop.data(), stop.size());
    }

    template <class F, class... Arguments>
    static std::string_view text(error *failed, F f, Arguments... arguments)
    {
        const char *text = nullptr;
        std::size_t size = 0;
        detail::call(failed, f, arguments..., &text, &size);
        return {text, size};
    }
};

// ---- Checkpoints and plans ----

/// A file of a model that the host has somewhere of its own. The library keeps what it needs of it.
struct source {
    /// Reads `size` bytes from `offset`; false if that failed. Comes from any thread, from several at once.
    using read_fn = std::function<bool(std::uint64_t offset, void *data, std::size_t size)>;

    source(std::string file, std::uint64_t bytes, read_fn reader) : name(std::move(file)), size(bytes), read(std::move(reader))
    {
    }
    /// A file descriptor, which is duplicated.
    source(std::string file, int descriptor) : name(std::move(file)), fd(descriptor) {}

    std::string name;
    std::uint64_t size = 0;
    read_fn read;
    int fd = -1;
};

/// With the fields of C: threads, gpu_layers, experts_on_cpu and so on.
struct model_options : detail::options<grok1_model_options, grok1_model_options_init> {
    std::string tokenizer;
    /// "cuda:0", "auto"; empty for the processor.
    std::string device;
    std::string kernel_cache;
    grok1::pool *pool = nullptr;
};

struct plan_options : detail::options<grok1_plan_options, grok1_plan_options_init> {
    std::vector<std::string> devices;
    std::string host;
};

/// What a model needs, and where it would lie.
class plan : public detail::handle<grok1_plan, grok1_plan_free> {
public:
    using handle::handle;

    grok1_plan_info info(error *failed = nullptr) const
    {
        return detail::info<grok1_plan_info>(failed, grok1_plan_get_info, get());
    }
    std::vector<grok1_plan_share> shares(error *failed = nullptr) const
    {
        return detail::infos<grok1_plan_share>(failed, info(failed).shares, grok1_plan_get_share, get());
    }
    std::vector<grok1_plan_place> places(error *failed = nullptr) const
    {
        return detail::infos<grok1_plan_place>(failed, info(failed).places, grok1_plan_get_place, get());
    }
};

/// The devices that a plan knows by name.
inline std::vector<grok1_device> known_devices(error *failed = nullptr)
{
    std::vector<grok1_device> all;
    for (;;) {
        grok1_device device{};
        const auto status = detail::ask(
            GROK1_ERR_ARGUMENT, failed, grok1_known_device, all.size(), &device, sizeof device);
        if (status != GROK1_OK)
            return all;
        all.push_back(device);
    }
}

/// A model's files, opened. May be used from any thread.
class checkpoint : public detail::handle<grok1_checkpoint, grok1_checkpoint_free> {
public:
    using handle::handle;
    explicit checkpoint(const std::string &path, const std::string &tokenizer = {}, error *failed = nullptr)
        : handle(detail::make<handle>(failed, grok1_checkpoint_open, path.c_str(), detail::or_null(tokenizer)))
    {
    }
    explicit checkpoint(span<const source> sources, error *failed = nullptr) : handle(open(sources, failed)) {}
    /// What a model was loaded from.
    explicit checkpoint(const model &model, error *failed = nullptr);

    /// Random weights: "layers=2,type=q4_k".
    static checkpoint synthetic(const std::string &spec, error *failed = nullptr)
    {
        return detail::make<checkpoint>(failed, grok1_checkpoint_synthetic, spec.c_str());
    }

    grok1_checkpoint_info info(error *failed = nullptr) const
    {
        return detail::info<grok1_checkpoint_info>(failed, grok1_checkpoint_get_info, get());
    }
    grok1_config config(error *failed = nullptr) const
    {
        return detail::info<grok1_config>(failed, grok1_checkpoint_get_config, get());
    }
    std::vector<grok1_tensor> tensors(error *failed = nullptr) const
    {
        return detail::infos<grok1_tensor>(failed, info(failed).tensors, grok1_checkpoint_get_tensor, get());
    }
    grok1::plan plan(const plan_options &options = {}, error *failed = nullptr) const
    {
        const auto devices = detail::pointers(options.devices);
        grok1_plan_options c = options;
        c.devices = detail::or_null(devices);
        c.n_devices = devices.size();
        c.host = detail::or_null(options.host);
        return detail::make<grok1::plan>(failed, grok1_checkpoint_plan, get(), &c);
    }

private:
    static handle open(span<const source> sources, error *failed)
    {
        std::vector<std::unique_ptr<source::read_fn>> kept;
        std::vector<grok1_source> all;
        for (const source &source : sources) {
            grok1_source c;
            grok1_source_init(&c, sizeof c);
            c.name = source.name.c_str();
            c.fd = source.fd;
            if (source.read) {
                kept.push_back(std::make_unique<source::read_fn>(source.read));
                c.read_at = read_at;
                c.release = release;
                c.user = kept.back().get();
                c.len = source.size;
            }
            all.push_back(c);
        }
        handle opened = detail::make<handle>(failed, grok1_checkpoint_open_sources, all.data(), all.size());
        if (opened)
            for (auto &function : kept)
                static_cast<void>(function.release());
        return opened;
    }
    static std::int32_t read_at(void *user, std::uint64_t offset, void *data, std::size_t size) noexcept
    {
        const auto &read = *static_cast<source::read_fn *>(user);
        return detail::silent([&] { return read(offset, data, size) ? GROK1_CONTINUE : GROK1_STOP; }, GROK1_STOP);
    }
    static void release(void *user) noexcept { delete static_cast<source::read_fn *>(user); }
};

// ---- Models ----

class session;
class sampler;

/// Tokens to run on a session.
struct entry {
    /// Gets the values of token number `row`; false stops the run.
    using sink_fn = std::function<bool(std::size_t row, span<const float> values)>;

    explicit entry(const grok1::session &on, span<const token_id> run = {}) : session(&on), tokens(run) {}
    entry(const grok1::session &on, span<const token_id> run, std::int32_t wanted, sink_fn values = {})
        : session(&on), tokens(run), want(wanted), sink(std::move(values))
    {
    }

    const grok1::session *session;
    /// Empty if only those that wait in the session are to run.
    span<const token_id> tokens;
    /// GROK1_WANT_...
    std::int32_t want = GROK1_WANT_LAST;
    /// For GROK1_WANT_ALL and GROK1_WANT_HIDDEN.
    sink_fn sink;
    /// For GROK1_WANT_SAMPLE.
    const grok1::sampler *sampler = nullptr;
};

/// A loaded model. May be used from any thread; sessions keep what they need of it.
class model : public detail::handle<grok1_model, grok1_model_free> {
public:
    using handle::handle;
    explicit model(const std::string &path, const model_options &options = {}, const control &control = {},
                   error *failed = nullptr)
        : handle(load(grok1_model_load, path.c_str(), options, control, failed))
    {
    }
    explicit model(const checkpoint &checkpoint, const model_options &options = {}, const control &control = {},
                   error *failed = nullptr)
        : handle(load(grok1_checkpoint_load, checkpoint.get(), options, control, failed))
    {
    }

    grok1_model_info info(error *failed = nullptr) const
    {
        return detail::info<grok1_model_info>(failed, grok1_model_get_info, get());
    }
    grok1_config config(error *failed = nullptr) const
    {
        return detail::info<grok1_config>(failed, grok1_model_get_config, get());
    }
    void trim(const control &control = {}, error *failed = nullptr) const
    {
        detail::call(failed, grok1_model_trim, get(), detail::c_control(control).get());
    }
    /// Runs tokens of any number of sessions together. All or nothing.
    void run(span<const entry> entries, const control &control = {}, error *failed = nullptr) const;

private:
    template <class F, class From>
    static handle load(F f, From from, const model_options &options, const control &control, error *failed)
    {
        const detail::c_pool pool(options.pool);
        grok1_model_options c = options;
        c.tokenizer = detail::or_null(options.tokenizer);
        c.device = detail::or_null(options.device);
        c.kernel_cache = detail::or_null(options.kernel_cache);
        c.pool = pool.get();
        return detail::make<handle>(failed, f, from, &c, detail::c_control(control).get());
    }
};

inline tokenizer::tokenizer(const model &model, error *failed)
    : handle(detail::make<handle>(failed, grok1_model_get_tokenizer, model.get()))
{
}

inline checkpoint::checkpoint(const model &model, error *failed)
    : handle(detail::make<handle>(failed, grok1_model_get_checkpoint, model.get()))
{
}

// ---- Samplers ----

struct sampler_options : detail::options<grok1_sampler_options, grok1_sampler_options_init> {
    std::vector<grok1_logit_bias> logit_bias;
    /// Empty for any.
    std::vector<token_id> allowed_tokens;
};

/// Chooses the next token. One belongs to one sequence, and one thread at a time may use it.
class sampler : public detail::handle<grok1_sampler, grok1_sampler_free> {
public:
    /// The host's own filter: -infinity excludes a token.
    using filter_fn = std::function<void(span<const token_id> history, span<float> logits)>;
    /// Tokens and, at the same places, their probabilities.
    struct distribution_of_tokens {
        std::vector<token_id> tokens;
        std::vector<double> probabilities;
    };

    using handle::handle;
    explicit sampler(const sampler_options &options = {}, error *failed = nullptr) : handle(make(options, failed)) {}

    /// Goes on independently from the same state, with the same filter.
    sampler clone(error *failed = nullptr) const
    {
        auto clone = detail::make<sampler>(failed, grok1_sampler_clone, get());
        clone.filter_ = filter_;
        return clone;
    }
    /// Calls `filter` for each token; the sampler and its clones keep it. Clones may call it from several threads at once.
    void set_filter(filter_fn filter, error *failed = nullptr)
    {
        auto kept = std::make_shared<filter_fn>(std::move(filter));
        detail::call(failed, grok1_sampler_set_filter, get(), *kept ? call_filter : nullptr, kept.get());
        filter_ = std::move(kept);
    }
    /// The token that follows `history`. What it points to stays until the sampler is used again.
    grok1_sampled sample(span<const float> logits, span<const token_id> history = {}, error *failed = nullptr)
    {
        return detail::info<grok1_sampled>(
            failed, grok1_sampler_sample, get(), logits.data(), logits.size(), history.data(), history.size());
    }
    /// What `sample` would draw from, in the order of ids.
    distribution_of_tokens distribution(span<const float> logits, span<const token_id> history = {},
                                        error *failed = nullptr)
    {
        distribution_of_tokens all;
        std::size_t needed = logits.size();
        all.tokens.resize(needed);
        all.probabilities.resize(needed);
        detail::call(failed, grok1_sampler_distribution, get(), logits.data(), logits.size(), history.data(),
                     history.size(), all.tokens.data(), all.probabilities.data(), needed, &needed);
        all.tokens.resize(needed);
        all.probabilities.resize(needed);
        return all;
    }
    /// How many tokens were drawn.
    std::uint64_t draws(error *failed = nullptr) const
    {
        std::uint64_t draws = 0;
        detail::call(failed, grok1_sampler_draws, get(), &draws);
        return draws;
    }
    void set_draws(std::uint64_t draws, error *failed = nullptr)
    {
        detail::call(failed, grok1_sampler_set_draws, get(), draws);
    }
    /// Settings and state, without the filter.
    std::vector<std::uint8_t> save(error *failed = nullptr) const
    {
        return detail::fill<std::vector<std::uint8_t>>(failed, 256, grok1_sampler_save, get());
    }
    static sampler restore(span<const std::uint8_t> saved, error *failed = nullptr)
    {
        return detail::make<sampler>(failed, grok1_sampler_restore, saved.data(), saved.size());
    }

private:
    static handle make(const sampler_options &options, error *failed)
    {
        grok1_sampler_options c = options;
        c.logit_bias = detail::or_null(options.logit_bias);
        c.n_logit_bias = options.logit_bias.size();
        c.allowed_tokens = detail::or_null(options.allowed_tokens);
        c.n_allowed_tokens = options.allowed_tokens.size();
        return detail::make<handle>(failed, grok1_sampler_new, &c);
    }
    static void call_filter(void *user, const token_id *history, std::size_t n_history, float *logits,
                            std::size_t n_logits) noexcept
    {
        const auto &filter = *static_cast<filter_fn *>(user);
        const auto call = [&] {
            filter({history, n_history}, {logits, n_logits});
            return true;
        };
        // A logit that is not a number stops the sampler.
        if (!detail::guarded(call, false) && n_logits > 0)
            logits[0] = NAN;
    }

    std::shared_ptr<filter_fn> filter_;
};

// ---- Sessions and generations ----

/// A generated token. What it points to stays until the generation goes on.
class piece {
public:
    explicit piece(const grok1_token &token) noexcept : token_(token) {}

    /// Text that became certain with this token; often empty.
    std::string_view text() const noexcept { return {token_.text, token_.text_len}; }
    token_id token() const noexcept { return token_.id; }
    /// NaN if the sampler was told to leave it out.
    float logprob() const noexcept { return token_.logprob; }
    span<const grok1_alternative> alternatives() const noexcept
    {
        return {token_.alternatives, token_.n_alternatives};
    }
    /// Among those of the generation, from 0.
    std::size_t index() const noexcept { return token_.index; }
    /// GROK1_FINISH_...
    std::int32_t finish() const noexcept { return token_.finish; }
    /// With GROK1_FINISH_STOP.
    std::size_t stop_index() const noexcept { return token_.stop_index; }

private:
    grok1_token token_;
};

struct generation_options : detail::options<grok1_generation_options, grok1_generation_options_init> {
    std::vector<std::string> stop;
};

/// A generation under way, without its session: for servers and event loops.
class generation : public detail::handle<grok1_generation, grok1_generation_free> {
public:
    /// False stops the generation, which can go on with the next token.
    using token_fn = std::function<bool(const piece &piece)>;

    using handle::handle;
    explicit generation(const generation_options &options = {}, error *failed = nullptr)
        : handle(make(options, detail::texts(options.stop), failed))
    {
    }

    /// Samples from the session's logits and pushes the token to it; nothing after the last one.
    std::optional<piece> accept(session &session, sampler &sampler, error *failed = nullptr);
    /// Runs what waits in the session first.
    std::optional<piece> next(session &session, sampler &sampler, const control &control = {}, error *failed = nullptr);
    /// To the end.
    void run(session &session, sampler &sampler, const token_fn &on_token, const control &control = {},
             error *failed = nullptr);
    grok1_generation_info info(error *failed = nullptr) const
    {
        return detail::info<grok1_generation_info>(failed, grok1_generation_get_info, get());
    }

private:
    static handle make(const generation_options &options, const std::vector<grok1_text> &stop, error *failed)
    {
        grok1_generation_options c = options;
        c.stop = detail::or_null(stop);
        c.n_stop = stop.size();
        return detail::make<handle>(failed, grok1_generation_new, &c);
    }
    static std::int32_t on_token(void *user, const grok1_token *token) noexcept
    {
        const auto &call = *static_cast<const token_fn *>(user);
        return detail::guarded([&] { return call(piece(*token)) ? GROK1_CONTINUE : GROK1_STOP; }, GROK1_STOP);
    }
    template <class F, class... Arguments>
    static std::optional<piece> token(error *failed, F f, Arguments... arguments)
    {
        grok1_token token{};
        const auto status = detail::ask(GROK1_ERR_ENDED, failed, f, arguments..., &token, sizeof token);
        return status == GROK1_OK ? std::optional(piece(token)) : std::nullopt;
    }
};

/// The pieces of a generation, made as they are asked for. To go through once; after a failure that is not thrown it is at its end.
class pieces {
public:
    class iterator {
    public:
        using iterator_category = std::input_iterator_tag;
        using value_type = piece;
        using difference_type = std::ptrdiff_t;
        using pointer = const piece *;
        using reference = const piece &;

        iterator() noexcept = default;
        explicit iterator(pieces *of) : of_(of) { ++*this; }
        reference operator*() const noexcept { return *of_->piece_; }
        pointer operator->() const noexcept { return &*of_->piece_; }
        iterator &operator++()
        {
            if (!of_->advance())
                of_ = nullptr;
            return *this;
        }
        void operator++(int) { ++*this; }
        friend bool operator==(const iterator &a, const iterator &b) noexcept { return a.of_ == b.of_; }
        friend bool operator!=(const iterator &a, const iterator &b) noexcept { return a.of_ != b.of_; }

    private:
        pieces *of_ = nullptr;
    };

    /// Makes the first piece.
    iterator begin() { return iterator(this); }
    iterator end() noexcept { return {}; }

private:
    friend class session;
    pieces(grok1::generation generation, session &session, sampler &sampler, control control, error *failed)
        : generation_(std::move(generation)), session_(&session), sampler_(&sampler), control_(std::move(control)),
          failed_(failed), ended_(failed && *failed)
    {
    }
    bool advance()
    {
        piece_ = ended_ ? std::nullopt : generation_.next(*session_, *sampler_, control_, failed_);
        ended_ = !piece_;
        return !ended_;
    }

    grok1::generation generation_;
    session *session_;
    sampler *sampler_;
    control control_;
    error *failed_;
    bool ended_;
    std::optional<piece> piece_;
};

struct session_options : detail::options<grok1_session_options, grok1_session_options_init> {};

/// One sequence: its tokens, its keys and values. One thread at a time may use it.
class session : public detail::handle<grok1_session, grok1_session_free> {
public:
    /// Takes the next bytes of a saved session; false if that failed.
    using write_fn = std::function<bool(const char *data, std::size_t size)>;
    /// Gives the next bytes of a saved session, `size` at most, and says how many; 0 at the end, nothing if that failed.
    using read_fn = std::function<std::optional<std::size_t>(char *data, std::size_t size)>;

    using handle::handle;
    explicit session(const model &model, const session_options &options = {}, error *failed = nullptr)
        : handle(detail::make<handle>(failed, grok1_session_new, model.get(), &options))
    {
    }

    /// Appends a prompt and generates from it; an empty one goes on from where the session is. Session, sampler, and what `control`
    /// refers to must live as long as the pieces are asked for, and `failed` too.
    pieces generate(std::string_view prompt, sampler &sampler, const generation_options &options = {},
                    const control &control = {}, error *failed = nullptr)
    {
        return start(prompt, sampler, options, control, failed);
    }
    pieces generate(span<const token_id> prompt, sampler &sampler, const generation_options &options = {},
                    const control &control = {}, error *failed = nullptr)
    {
        return start(prompt, sampler, options, control, failed);
    }

    /// Appends without running.
    void push(std::string_view text, error *failed = nullptr)
    {
        detail::call(failed, grok1_session_push_text, get(), text.data(), text.size());
    }
    void push(span<const token_id> tokens, error *failed = nullptr)
    {
        detail::call(failed, grok1_session_push, get(), tokens.data(), tokens.size());
    }
    /// Runs tokens, after those that wait.
    void feed(span<const token_id> tokens, const control &control = {}, error *failed = nullptr)
    {
        detail::call(failed, grok1_session_feed, get(), tokens.data(), tokens.size(), detail::c_control(control).get());
    }
    /// Log-probability of each token after all that came before it; NaN for the first of all.
    std::vector<float> score(span<const token_id> tokens, const control &control = {}, error *failed = nullptr)
    {
        std::vector<float> scores(tokens.size());
        const auto status = detail::call(failed, grok1_session_score, get(), tokens.data(), tokens.size(), scores.data(),
                                         detail::c_control(control).get());
        if (status != GROK1_OK)
            scores.clear();
        return scores;
    }
    /// Of the last token; empty if the last run did not ask for them. They stay until the session is used again.
    span<const float> logits() const noexcept
    {
        std::size_t size = 0;
        const float *logits = grok1_session_logits(get(), &size);
        return {logits, size};
    }
    std::vector<token_id> tokens(error *failed = nullptr) const
    {
        return detail::fill<std::vector<token_id>>(failed, 0, grok1_session_tokens, get());
    }
    /// Forgets all tokens from number `size` on.
    void truncate(std::size_t size, error *failed = nullptr)
    {
        detail::call(failed, grok1_session_truncate, get(), size);
    }
    /// With the same past, shared until one of the two goes on.
    session fork(error *failed = nullptr) const { return detail::make<session>(failed, grok1_session_fork, get()); }
    grok1_session_info info(error *failed = nullptr) const
    {
        return detail::info<grok1_session_info>(failed, grok1_session_get_info, get());
    }

    /// With the state of `with`, if that is not NULL.
    void save(const write_fn &write, const sampler *with = nullptr, const control &control = {},
              error *failed = nullptr) const
    {
        detail::call(failed, grok1_session_save, get(), with ? with->get() : nullptr, on_write,
                     const_cast<write_fn *>(&write), detail::c_control(control).get());
    }
    /// `saved_sampler`, if it is not NULL, receives the sampler, empty if none was saved.
    static session restore(const model &model, const read_fn &read, const session_options &options = {},
                           sampler *saved_sampler = nullptr, const control &control = {}, error *failed = nullptr)
    {
        grok1_session *session = nullptr;
        grok1_sampler *sampler = nullptr;
        grok1_error *raw = nullptr;
        [[maybe_unused]] const grok1_status status
            = grok1_session_restore(model.get(), on_read, const_cast<read_fn *>(&read), &options,
                                    detail::c_control(control).get(), &session, saved_sampler ? &sampler : nullptr, &raw);
        grok1::session restored(session);
        grok1::sampler with(sampler);
        detail::finish(raw, failed);
        if (saved_sampler)
            *saved_sampler = std::move(with);
        return restored;
    }

private:
    template <class Prompt>
    pieces start(Prompt prompt, sampler &sampler, const generation_options &options, const control &control,
                 error *failed)
    {
        grok1::generation generation(options, failed);
        if (generation)
            push(prompt, failed);
        return {std::move(generation), *this, sampler, control, failed};
    }
    static std::int32_t on_write(void *user, const void *data, std::size_t size) noexcept
    {
        const auto &write = *static_cast<const write_fn *>(user);
        const auto call = [&] { return write(static_cast<const char *>(data), size) ? GROK1_CONTINUE : GROK1_STOP; };
        return detail::guarded(call, GROK1_STOP);
    }
    static std::int32_t on_read(void *user, void *data, std::size_t size, std::size_t *given) noexcept
    {
        const auto &read = *static_cast<const read_fn *>(user);
        const auto call = [&] {
            const std::optional<std::size_t> count = read(static_cast<char *>(data), size);
            *given = count.value_or(0);
            return count ? GROK1_CONTINUE : GROK1_STOP;
        };
        return detail::guarded(call, GROK1_STOP);
    }
};

inline std::optional<piece> generation::accept(session &session, sampler &sampler, error *failed)
{
    return token(failed, grok1_generation_accept, get(), session.get(), sampler.get());
}

inline std::optional<piece> generation::next(session &session, sampler &sampler, const control &control, error *failed)
{
    return token(failed, grok1_generation_next, get(), session.get(), sampler.get(), detail::c_control(control).get());
}

inline void generation::run(session &session, sampler &sampler, const token_fn &on_token, const control &control,
                            error *failed)
{
    detail::call(failed, grok1_generation_run, get(), session.get(), sampler.get(), generation::on_token,
                 const_cast<token_fn *>(&on_token), detail::c_control(control).get());
}

inline void model::run(span<const entry> entries, const control &control, error *failed) const
{
    const auto sink = [](void *user, std::size_t row, const float *values, std::size_t count) noexcept {
        const auto &call = *static_cast<const entry::sink_fn *>(user);
        return detail::guarded([&] { return call(row, {values, count}) ? GROK1_CONTINUE : GROK1_STOP; }, GROK1_STOP);
    };
    std::vector<grok1_entry> all;
    all.reserve(entries.size());
    for (const entry &entry : entries) {
        grok1_entry c;
        grok1_entry_init(&c, sizeof c);
        c.session = entry.session->get();
        c.tokens = entry.tokens.data();
        c.n_tokens = entry.tokens.size();
        c.want = entry.want;
        c.sampler = entry.sampler ? entry.sampler->get() : nullptr;
        if (entry.sink) {
            c.sink = sink;
            c.sink_user = const_cast<entry::sink_fn *>(&entry.sink);
        }
        all.push_back(c);
    }
    detail::call(failed, grok1_run, get(), all.data(), all.size(), detail::c_control(control).get());
}

// ---- Converting ----

struct conversion_options : detail::options<grok1_conversion_options, grok1_conversion_options_init> {
    std::string recipe;
    std::vector<std::string> exceptions;
    grok1::pool *pool = nullptr;
};

/// The names that a recipe can have.
inline std::vector<std::string> recipes()
{
    std::vector<std::string> all;
    while (const char *name = grok1_recipe_name(all.size()))
        all.emplace_back(name);
    return all;
}

/// A model to be written in another form, and what came of it. One thread at a time may use it.
class conversion : public detail::handle<grok1_conversion, grok1_conversion_free> {
public:
    using handle::handle;
    conversion(const checkpoint &checkpoint, const conversion_options &options, error *failed = nullptr)
        : handle(make(checkpoint, options, failed))
    {
    }

    grok1_conversion_report run(const std::string &path, const control &control = {}, error *failed = nullptr)
    {
        return detail::info<grok1_conversion_report>(
            failed, grok1_conversion_run, get(), path.c_str(), detail::c_control(control).get());
    }
    /// What the last run wrote.
    std::vector<std::string> files() const
    {
        std::vector<std::string> all;
        while (const char *file = grok1_conversion_file(get(), all.size()))
            all.emplace_back(file);
        return all;
    }
    grok1_verification verify(const std::string &path, const control &control = {}, error *failed = nullptr)
    {
        return detail::info<grok1_verification>(
            failed, grok1_conversion_verify, get(), path.c_str(), detail::c_control(control).get());
    }
    /// How far the matrices of type number `index` are from the checkpoint's, as the last `verify` found.
    std::pair<std::string, double> deviation(std::size_t index, error *failed = nullptr) const
    {
        const char *dtype = nullptr;
        double deviation = 0;
        detail::call(failed, grok1_conversion_deviation, get(), index, &dtype, &deviation);
        return {dtype ? dtype : "", deviation};
    }

private:
    static handle make(const checkpoint &checkpoint, const conversion_options &options, error *failed)
    {
        const auto exceptions = detail::pointers(options.exceptions);
        const detail::c_pool pool(options.pool);
        grok1_conversion_options c = options;
        c.recipe = detail::or_null(options.recipe);
        c.exceptions = detail::or_null(exceptions);
        c.n_exceptions = exceptions.size();
        c.pool = pool.get();
        return detail::make<handle>(failed, grok1_conversion_new, checkpoint.get(), &c);
    }
};

// ---- The log ----

/// Gets a message and its GROK1_LOG_... level. Comes from any thread, from several at once.
using log_fn = std::function<void(std::int32_t level, std::string_view message)>;

/// For the whole process, in place of what was set before; an empty function for silence.
inline void set_log(log_fn log, std::int32_t max_level, error *failed = nullptr)
{
    static std::shared_ptr<log_fn> current;
    auto next = std::make_shared<log_fn>(std::move(log));
    const auto call = [](void *user, std::int32_t level, const char *message, std::size_t size) noexcept {
        const auto tell = [&] {
            (*static_cast<const log_fn *>(user))(level, {message, size});
            return true;
        };
        static_cast<void>(detail::silent(tell, false));
    };
    error failure;
    const grok1_log_fn function = *next ? static_cast<grok1_log_fn>(call) : nullptr;
    detail::call(&failure, grok1_set_log, function, next.get(), max_level);
    if (!failure)
        current = std::move(next);
    if (failed)
        *failed = failure;
    else if (failure)
        detail::raise(failure);
}

} // namespace grok1

#endif // GROK1_HPP
