// Uses everything in grok1.hpp: every MODEL TOKENIZER FOLDER. Prints greedy text.

#include "grok1.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

// The other file of this program.
std::size_t vocabulary(const grok1::model &model);

namespace {

#define CHECK(condition) ((condition) ? void() : fail(__LINE__, #condition))

[[noreturn]] void fail(int line, const char *what)
{
    std::fprintf(stderr, "line %d: %s\n", line, what);
    std::exit(1);
}

/// The status that a call fails with.
template <class F>
grok1_status failure(F call)
{
    try {
        call();
    } catch (const grok1::error &error) {
        CHECK(error && std::string(error.what()).size() > 0 && std::string(error.name()) != "unknown");
        return error.status();
    }
    return GROK1_OK;
}

struct thrown_by_host : std::runtime_error {
    thrown_by_host() : std::runtime_error("thrown by the host") {}
};

/// Whether the call ends with the exception of its callback.
template <class F>
bool throws_on(F call)
{
    try {
        call();
    } catch (const thrown_by_host &) {
        return true;
    }
    return false;
}

template <class T>
constexpr bool move_only = std::is_nothrow_move_constructible_v<T> && std::is_nothrow_move_assignable_v<T>
    && !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T>;
static_assert(move_only<grok1::cancel> && move_only<grok1::checkpoint> && move_only<grok1::conversion>);
static_assert(move_only<grok1::generation> && move_only<grok1::model> && move_only<grok1::plan>);
static_assert(move_only<grok1::sampler> && move_only<grok1::session> && move_only<grok1::text_stream>);
static_assert(move_only<grok1::tokenizer>);
static_assert(std::is_nothrow_copy_constructible_v<grok1::error>);

grok1::sampler greedy()
{
    grok1::sampler_options options;
    options.temperature = 0;
    return grok1::sampler(options);
}

grok1::generation_options at_most(std::size_t tokens)
{
    grok1::generation_options options;
    options.max_tokens = tokens;
    return options;
}

struct serial_pool final : grok1::pool {
    std::size_t width() const noexcept override { return 2; }
    void run(std::size_t parts, grok1::part part) noexcept override
    {
        for (std::size_t i = 0; i < parts; ++i)
            part(i);
    }
};

void failures()
{
    CHECK(failure([] { grok1::model("/nothing/here"); }) == GROK1_ERR_FORMAT);
    // The same without exceptions, and what is then empty answers for itself.
    grok1::error error;
    const grok1::model none("/nothing/here", {}, {}, &error);
    CHECK(!none && error.status() == GROK1_ERR_FORMAT && !error.entry());
    CHECK(failure([&] { none.info(); }) == GROK1_ERR_ARGUMENT);
    CHECK(none.info(&error).vocab == 0 && error.status() == GROK1_ERR_ARGUMENT);
    const grok1::checkpoint nothing("/nothing/here", {}, &error);
    CHECK(nothing.tensors(&error).empty() && error.status() == GROK1_ERR_ARGUMENT);
    // What works forgets what failed.
    const grok1::cancel cancel(&error);
    CHECK(cancel && !error && error.status() == GROK1_OK && std::string(error.what()).empty());
}

void tokenizers(const std::string &path)
{
    grok1::tokenizer tokenizer(path);
    using namespace std::literals;
    const auto text = "The king\0and his word"sv;
    const auto tokens = tokenizer.encode(text);
    CHECK(tokenizer.decode(tokens) == text && tokenizer.encode(text, true) != tokens);
    CHECK(tokenizer.token_bytes(tokens[0]) == " The" && tokenizer.kind(tokens[0]) == GROK1_TOKEN_NORMAL);
    CHECK(tokenizer.find(tokenizer.piece(tokens[0])) == tokens[0] && !tokenizer.find("no such piece"));
    CHECK(tokenizer.info().tokens > tokens[0]);
    CHECK(failure([&] { tokenizer.encode("\xff"); }) == GROK1_ERR_UTF8);

    grok1::text_stream stream(tokenizer, false, {"never", "king"});
    tokenizer = grok1::tokenizer(nullptr);
    std::string made;
    for (const auto token : tokens)
        made += stream.push(token);
    made += stream.finish();
    CHECK(made == "The " && stream.stopped() == 1u);
}

void checkpoints(const std::string &path, const std::string &folder)
{
    const grok1::checkpoint checkpoint(path);
    CHECK(checkpoint.tensors().size() == checkpoint.info().tensors && checkpoint.config().layers == 4);

    grok1::plan_options planning;
    planning.devices = {"box:1MB:100GB/s", "2xh100"};
    planning.host = "ram:8GB:20GB/s";
    const grok1::plan plan = checkpoint.plan(planning);
    CHECK(plan.info().fits && plan.places().size() >= 3 && plan.shares().size() == plan.info().shares);
    planning.devices = {"no such device"};
    CHECK(failure([&] { checkpoint.plan(planning); }) == GROK1_ERR_ARGUMENT);
    CHECK(grok1::known_devices().size() > 5);

    serial_pool pool;
    grok1::conversion_options options;
    options.recipe = grok1::recipes().at(0);
    options.exceptions = {"attn=f32"};
    options.pool = &pool;
    const std::string gguf = folder + "/every-cpp.gguf";
    std::remove(gguf.c_str());
    grok1::conversion conversion(checkpoint, options);
    int calls = 0;
    const grok1::control watched(nullptr, [&](std::int32_t task, std::uint64_t done, std::uint64_t total) {
        ++calls;
        return (task == GROK1_TASK_CONVERT || task == GROK1_TASK_VERIFY) && done <= total;
    });
    CHECK(conversion.run(gguf, watched).files == 1 && calls > 0);
    CHECK(conversion.files() == std::vector<std::string>{gguf});
    CHECK(conversion.verify(gguf).types > 0 && conversion.deviation(0).first.size() > 0);
    CHECK(failure([&] { conversion.run(gguf); }) == GROK1_ERR_ARGUMENT);

    // What was written, read by a function; its exception is a failed read.
    std::string bytes;
    if (std::FILE *file = std::fopen(gguf.c_str(), "rb")) {
        for (int c; (c = std::getc(file)) != EOF;)
            bytes.push_back(static_cast<char>(c));
        std::fclose(file);
    }
    std::remove(gguf.c_str());
    auto alive = std::make_shared<int>(0);
    {
        const auto read = [&bytes, alive](std::uint64_t offset, void *data, std::size_t size) {
            bytes.copy(static_cast<char *>(data), size, static_cast<std::size_t>(offset));
            return true;
        };
        const std::vector<grok1::source> sources{{"tiny.gguf", bytes.size(), read}};
        CHECK(grok1::model(grok1::checkpoint(sources)).info().has_tokenizer);
    }
    CHECK(alive.use_count() == 1);
    const std::vector<grok1::source> broken{
        {"tiny.gguf", bytes.size(), [](std::uint64_t, void *, std::size_t) -> bool { throw thrown_by_host(); }}};
    CHECK(failure([&] { grok1::checkpoint{broken}; }) == GROK1_ERR_RESOURCE);

    grok1::model_options small;
    small.pool = &pool;
    const auto synthetic = grok1::checkpoint::synthetic(
        "layers=1,width=64,heads=2,kv_heads=1,head_dim=32,experts=2,selected=1,ffn=64,vocab=100,context=16");
    grok1::session session(grok1::model(synthetic, small)); // which keeps the model
    session.feed(std::vector<grok1::token_id>{5});
    CHECK(session.logits().size() == 100);
}

void samplers(grok1::session &session)
{
    const std::vector<grok1::token_id> history{3, 4};
    const auto logits = session.logits();
    grok1::sampler_options options;
    options.allowed_tokens = {0, 1, 2, 3};
    options.logit_bias = {{1, -INFINITY}};
    options.alternatives = 2;
    grok1::sampler sampler(options);
    int calls = 0;
    sampler.set_filter([&](grok1::span<const grok1::token_id> before, grok1::span<float> all) {
        CHECK(before.size() == 2 && all.size() == logits.size());
        all[0] = -INFINITY;
        ++calls;
    });
    auto clone = sampler.clone();
    const auto first = sampler.sample(logits, history);
    CHECK(first.token >= 2 && first.token <= 3 && first.n_alternatives == 2);
    CHECK(clone.sample(logits, history).token == first.token && calls == 2);
    const auto all = sampler.distribution(logits, history);
    CHECK(all.tokens == (std::vector<grok1::token_id>{2, 3}) && all.probabilities.size() == 2);
    CHECK(sampler.draws() == 1);
    sampler.set_draws(0);
    CHECK(grok1::sampler::restore(sampler.save()).draws() == 0);

    sampler.set_filter([](auto, auto) { throw thrown_by_host(); });
    CHECK(throws_on([&] { sampler.sample(logits, history); }) && sampler.draws() == 0);
    CHECK(throws_on([&] { session.generate(history, sampler).begin(); }));
    CHECK(failure([&] { sampler.set_filter({}); }) == GROK1_ERR_ARGUMENT);
    sampler.set_filter([](auto, auto) {});
    CHECK(sampler.sample(logits, history).token <= 3);
    options.top_p = 3;
    CHECK(failure([&] { grok1::sampler{options}; }) == GROK1_ERR_ARGUMENT);
}

void sessions(const grok1::model &model)
{
    grok1::session_options options;
    options.context = 64;
    grok1::session session(model, options);
    const std::vector<grok1::token_id> tokens{484, 537};
    const auto scores = session.score(tokens);
    CHECK(std::isnan(scores[0]) && scores[1] < 0);
    session.push(tokens);
    session.push(" and");
    CHECK(session.tokens().size() > 4);
    session.truncate(3);
    grok1::session fork = session.fork();

    std::size_t rows = 0;
    const auto count = [&](std::size_t row, grok1::span<const float> values) {
        CHECK(values.size() == model.config().width || grok1::log_probability(values, 5) < 0);
        rows += row + 1;
        return true;
    };
    const std::vector<grok1::entry> entries{
        {session, tokens, GROK1_WANT_ALL, count}, {fork, tokens, GROK1_WANT_HIDDEN, count}};
    model.run(entries);
    CHECK(rows == 2 * (1 + 2 + 3) && session.info().position == 5);

    // Stopped by each that can stop it, all is as it was.
    grok1::cancel cancel;
    cancel.set();
    CHECK(cancel.is_set() && failure([&] { model.run(entries, &cancel); }) == GROK1_ERR_CANCELLED);
    cancel.clear();
    const grok1::control impatient(&cancel, [](std::int32_t, std::uint64_t, std::uint64_t) { return false; });
    CHECK(failure([&] { session.feed(tokens, impatient); }) == GROK1_ERR_CANCELLED);
    const grok1::control broken(nullptr, [](std::int32_t, std::uint64_t, std::uint64_t) -> bool { throw thrown_by_host(); });
    CHECK(throws_on([&] { session.feed(tokens, broken); }));
    const std::vector<grok1::entry> bad{
        {session, tokens, GROK1_WANT_ALL, [](std::size_t, grok1::span<const float>) -> bool { throw thrown_by_host(); }}};
    CHECK(throws_on([&] { model.run(bad); }) && session.info().position == 5);
    grok1::error error;
    model.run(std::vector<grok1::entry>{grok1::entry(session, tokens), grok1::entry(session, tokens)}, {}, &error);
    CHECK(error.status() == GROK1_ERR_ARGUMENT && error.entry() == 1u);

    session.feed(tokens);
    samplers(session);

    std::string saved;
    const grok1::sampler sampler = greedy();
    session.save([&](const char *data, std::size_t size) { return saved.append(data, size), true; }, &sampler);
    std::size_t taken = 0;
    const auto read = [&](char *data, std::size_t size) -> std::optional<std::size_t> {
        const std::size_t count_of = saved.copy(data, size, taken);
        taken += count_of;
        return count_of;
    };
    grok1::sampler with(nullptr);
    const auto restored = grok1::session::restore(model, read, {}, &with);
    CHECK(with && restored.tokens() == session.tokens());
    CHECK(failure([&] { grok1::session::restore(model, read); }) == GROK1_ERR_FORMAT);
    CHECK(throws_on([&] { session.save([](const char *, std::size_t) -> bool { throw thrown_by_host(); }); }));
    CHECK(throws_on([&] {
        grok1::session::restore(model, [](char *, std::size_t) -> std::optional<std::size_t> { throw thrown_by_host(); });
    }));
    model.trim();
}

void generations(const grok1::model &model)
{
    // A range; what comes of it is what the other ways give.
    grok1::session session(model);
    auto sampler = greedy();
    std::string text = "The king";
    std::size_t count = 0;
    for (const auto &piece : session.generate(text, sampler, at_most(12))) {
        CHECK(piece.index() == count++ && piece.logprob() < 0 && piece.alternatives().empty());
        CHECK((piece.finish() == GROK1_FINISH_MAX_TOKENS) == (count == 12));
        text += piece.text();
    }
    CHECK(count == 12);
    std::cout << text << std::endl;
    const auto tokens = session.tokens();

    session.truncate(0);
    const auto prompt = grok1::tokenizer(model).encode("The king");
    auto pieces = session.generate(prompt, sampler, at_most(12));
    CHECK(std::all_of(pieces.begin(), pieces.end(), [](const grok1::piece &piece) { return piece.token() > 2; }));
    CHECK(session.tokens() == tokens);

    session.truncate(0);
    session.push("The king");
    session.feed({});
    grok1::generation generation(at_most(12));
    CHECK(generation.accept(session, sampler) && generation.next(session, sampler));
    int calls = 0;
    CHECK(failure([&] { generation.run(session, sampler, [&](const grok1::piece &) { return ++calls < 5; }); })
          == GROK1_ERR_CANCELLED);
    CHECK(throws_on([&] {
        generation.run(session, sampler, [](const grok1::piece &) -> bool { throw thrown_by_host(); });
    }));
    generation.run(session, sampler, [&](const grok1::piece &) { return ++calls > 0; });
    CHECK(generation.info().tokens == 12 && !generation.next(session, sampler) && session.tokens() == tokens);

    // A stop string, and a failure that ends the range.
    session.truncate(0);
    grok1::generation_options options;
    options.stop = {"never in it", text.substr(text.size() - 3)};
    std::int32_t finish = GROK1_FINISH_NONE;
    for (const auto &piece : session.generate("The king", sampler, options))
        finish = piece.finish() == GROK1_FINISH_STOP && piece.stop_index() == 1 ? GROK1_FINISH_STOP : finish;
    CHECK(finish == GROK1_FINISH_STOP);
    grok1::cancel cancel;
    grok1::error error;
    count = 0;
    for (const auto &piece : session.generate("", sampler, {}, &cancel, &error))
        if (piece.index() == 2)
            cancel.set();
        else
            ++count;
    CHECK(count == 2 && error.status() == GROK1_ERR_CANCELLED);
    CHECK(failure([&] {
        for (const auto &piece : session.generate("", sampler, {}, &cancel))
            CHECK(piece.index() > 2);
    }) == GROK1_ERR_CANCELLED);
    auto nothing = session.generate("\xff", sampler, {}, {}, &error);
    CHECK(nothing.begin() == nothing.end() && error.status() == GROK1_ERR_UTF8);
    options.stop = {"\xff"};
    auto neither = session.generate("text", sampler, options, {}, &error);
    CHECK(neither.begin() == neither.end() && error.status() == GROK1_ERR_UTF8);
}

} // namespace

int main(int argc, char **argv)
{
    CHECK(argc == 4 && grok1::compatible() && grok1::has("unwind"));
    CHECK(grok1::version() == std::string(GROK1_VERSION_STRING) && grok1::version_number() == GROK1_VERSION_NUMBER);
    grok1::set_log([](std::int32_t, std::string_view) { throw thrown_by_host(); }, GROK1_LOG_TRACE);
    failures();
    tokenizers(argv[2]);
    checkpoints(argv[1], argv[3]);

    grok1::model_options options;
    options.tokenizer = argv[2];
    options.threads = 2;
    options.kernel_cache = argv[3]; // of GPUs
    options.gpu_layers = 1;
    options.experts_on_cpu = -1;
    options.device = "gpu";
    CHECK(failure([&] { grok1::model(argv[1], options); }) == GROK1_ERR_ARGUMENT);
    options.device = "cpu";
    const grok1::model model(argv[1], options);
    CHECK(model.info().vocab == vocabulary(model) && grok1::checkpoint(model).info().tensors > 0);
    sessions(model);
    generations(model);
    grok1::set_log({}, GROK1_LOG_OFF);
}
