// Writing in turns: chat [MODEL]
//
// Each line goes on with the text, and the model goes on from there, to the end of a line. Ctrl-C stops the model, not the program;
// /reset begins anew, /quit or the end of input leaves. Grok-1 is a base model: it continues, it does not answer.
//
//     c++ -std=c++17 chat.cpp $(pkg-config --cflags --libs grok1) -o chat

#include <grok1.hpp>

#include <csignal>
#include <iostream>
#include <string>

namespace {

const grok1::cancel *interrupted = nullptr;

void turn(grok1::session &session, grok1::sampler &sampler, const std::string &line, const grok1::cancel &cancel)
{
    grok1::generation_options options;
    options.max_tokens = 200;
    options.stop = {"\n"};
    try {
        for (const auto &piece : session.generate(line, sampler, options, &cancel))
            std::cout << piece.text() << std::flush;
    } catch (const grok1::error &error) {
        if (error.status() != GROK1_ERR_CANCELLED)
            throw;
        std::cout << " [stopped]";
    }
    std::cout << std::endl;
}

void chat(const std::string &path)
{
    const grok1::model model(path);
    grok1::session session(model);
    grok1::sampler_options options;
    options.temperature = 0.7f;
    options.top_p = 0.95f;
    options.seed = 42;
    grok1::sampler sampler(options);

    const grok1::cancel cancel;
    interrupted = &cancel;
    std::signal(SIGINT, [](int) { interrupted->set(); });

    std::cout << "> " << std::flush;
    for (std::string line; std::getline(std::cin, line); std::cout << "> " << std::flush) {
        cancel.clear();
        if (line == "/quit")
            break;
        if (line == "/reset") {
            session.truncate(0);
            continue;
        }
        try {
            turn(session, sampler, line, cancel);
        } catch (const grok1::error &error) {
            std::cerr << error.what() << std::endl;
        }
    }
    std::signal(SIGINT, SIG_DFL);
}

} // namespace

int main(int argc, char **argv)
{
    try {
        chat(argc > 1 ? argv[1] : "assets/tiny");
    } catch (const std::exception &error) {
        std::cerr << error.what() << std::endl;
        return 1;
    }
}
